"""Kinds of variants: choices, words, typography."""

from __future__ import annotations

from itertools import permutations

from hypothesis import strategies as st

from tests.rewards.variants.writing import (
    KINDS,
    Case,
    kind,
    orders,
    told_apart,
)

OPTIONS = ["12 cm", "5 cm", r"\frac{1}{2}", "the red car", "It cannot be told", "3x+1"]
OFFERS = ["{}. {}", "({}) {}"]
STEMS = ["Which is right?", "What follows from the figure?", "下列说法正确的是"]
NO_CHOICES = [
    "Order the points A, B, C, D and E on the number line from left to right.",
    "In the polygon ABCDE, list the angles from the smallest to the largest.",
    "Car A is faster than car B. Car C is slower than car D. Order the cars.",
    "将点 A、B、C、D、E 从左到右排列。",
]


@st.composite
def offers(draw) -> str:
    """A question that offers the choices A to E."""
    form, between = draw(st.sampled_from(OFFERS)), draw(st.sampled_from(["\n", " "]))
    texts = map(form.format, "ABCDE", draw(st.permutations(OPTIONS)))
    return between.join([draw(st.sampled_from(STEMS)), *texts])


@kind
def one_choice(draw):
    letter, other, third = draw(st.permutations("ABCDE"))[:3]
    option = draw(st.sampled_from(OPTIONS))

    def write(letter: str) -> list[str]:
        forms = (
            "{0} ({0}) [{0}] （{0}） {0}. {0}) 选{0} 选项{0} 答案：{0} **{0}**".split()
        )
        forms += [
            "**({0})**",
            "Option {0}",
            r"\text{{{0}}}",
            r"\text{{({0})}}",
            r"\mathrm{{{0}}}",
        ]
        forms += ["Answer: {0}", "{1}", "({1})", "${0}$"]
        return [form.format(letter, letter.lower()) for form in forms]

    def told(letter: str) -> list[str]:
        return [f"{letter}. {option}", f"({letter}) {option}", f"{letter}) {option}"]

    wrong = [*write(other), *told(other), f"{letter}, {other}", f"{letter}{other}"]
    wrong += [
        f"{letter} or {other}",
        f"{letter} and {other}",
        f"not {letter}",
        f"{third}{other}",
    ]
    wrong += [
        f"{letter} is wrong, {other} is right",
        f"not ({letter})",
        f"{letter}, {other}, {third}",
    ]
    truths = draw(
        st.sampled_from([[letter, f"({letter})", f"{letter}."], told(letter)])
    )
    right = [*write(letter), *told(letter)]
    return Case(truths, right, wrong, draw(st.none() | offers()))


@kind
def several_choices(draw):
    letters = "".join(sorted(draw(st.permutations("ABCDE"))[: draw(st.integers(2, 4))]))
    new = draw(st.sampled_from([letter for letter in "ABCDE" if letter not in letters]))

    def write(letters: str) -> list[str]:
        return orders(letters, ", ", "", ",", "、", " and ", "; ")

    others = [
        letters[1:],
        letters[:-1],
        letters + new,
        letters[1:] + new,
        new + letters[:-1],
    ]
    case = told_apart(letters, others, write, [letters[0]], key=frozenset)
    return case._replace(question=draw(offers()))


@kind
def letters_in_an_order(draw):
    letters = "".join(draw(st.permutations("ABCDE"))[: draw(st.integers(3, 5))])
    together = draw(st.booleans())

    def write(letters: str) -> list[str]:
        if together:
            return [letters, rf"\text{{{letters}}}", f"{letters}.", f"**{letters}**"]
        return [separator.join(letters) for separator in (", ", ",", "、")]

    others = ["".join(order) for order in permutations(letters)][1:]
    others = [
        draw(st.sampled_from(others)),
        letters[::-1],
        letters[1:],
        letters + letters[0],
    ]
    case = told_apart(letters, others, write)
    return case._replace(question=draw(st.none() | st.sampled_from(NO_CHOICES)))


WORDS = [
    *(
        "yes",
        "no",
        "true",
        "false",
        "circle",
        "triangle",
        "blue",
        "red",
        "north",
        "isosceles",
    ),
    *(
        "parallel",
        "perpendicular",
        "even",
        "right triangle",
        "Monday",
        "increasing",
        "obtuse",
    ),
    *("never", "the red car", "New York", "same side", "carbon dioxide"),
]


@kind
def words(draw):
    word, other = draw(st.permutations(WORDS))[:2]

    def write(word: str) -> list[str]:
        texts = [word, word.upper(), word.lower(), word.capitalize()]
        dressed = [rf"\text{{{texts[3]}}}", rf"\text{{{word}}}", rf"\mathrm{{{word}}}"]
        texts += [f"{word}.", f"**{texts[3]}**", *dressed[: 2 if " " in word else 3]]
        return texts

    def squeezed(word: str) -> str:
        return word.lower().replace(" ", "")

    swap = draw(st.integers(0, len(word) - 2))
    anagram = word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :]
    others = [other, word[:-1], word + word[-1], word[::-1], anagram, f"not {word}"]
    others += [f"{word} or {other}", f"{word} {other}", f"It is {word}, I think"]
    others += [f"The answer is not {word}"]
    wrong = [f"The picture shows a {word} and a {other}", "5", "A"]
    return told_apart(word, others, write, wrong, squeezed)


# No two of them have a value in common.
SORTS = ["fractions", "surds", "multiples of pi", "points", "sets", "lines", "circles"]
SORTS += ["words", "polynomials", "intervals and inequalities", "letters in an order"]


@kind
def sorts_of_things(draw):
    one, other = draw(st.permutations(SORTS))[:2]
    case = draw(KINDS[one])
    return case._replace(wrong=draw(KINDS[other]).truths)


WIDE = {ord(c): ord(c) + 0xFEE0 for c in "0123456789ABCDEFGHXYZabcdefghxyz"}
PLAIN = [r"\text{{{}}}", r"\mathrm{{{}}}", "wide"]
ANY = r"**{}** `{}` ${}$ $${}$$ \({}\) {}. {}。".split() + ["Answer: {}", " {}\n"]
DRESSED = ["integers", "fractions", "decimals", "mixed numbers", "surds", "lists"]
DRESSED += ["multiples of pi", "points", "sets", "one named value", "lines"]
NOT_DRESSED = (" and ", " or ", "sqrt(", "*", "$")


@kind
def typography(draw):
    base = draw(st.sampled_from(DRESSED))
    case = draw(KINDS[base])
    form = draw(st.sampled_from(ANY + PLAIN))

    def dress(texts) -> list[str]:
        bare = [
            t for t in texts if not any(s in t for s in NOT_DRESSED) and t[-1] != "."
        ]
        simple = [t for t in bare if t.isascii() and not {"\\", "="} & set(t)]
        if form == "wide":
            return [text.translate(WIDE) for text in simple]
        return [form.format(text) for text in (simple if form in PLAIN else bare)]

    right, wrong = dress(case.right), dress(case.wrong)
    if not right or not wrong:
        right, wrong = case.right, case.wrong
    return case._replace(right=right, wrong=wrong)
