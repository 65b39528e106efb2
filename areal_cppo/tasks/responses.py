"""Prompts and responses: their tokens, the roles of these, what a response is worth.

What a reward needs; it imports neither torch nor transformers, as rewards are computed
in processes of their own.

A good response reads first and reasons afterwards,

    <think>BC=7 AB=7 CA=1;7+7=14;14+1=15</think>\\boxed{15}

with the readings in any order, so it is known of every token what it is for. Its role
is one letter:

| role | the token |
| --- | --- |
| R | reads a digit off the picture: the true perception tokens |
| N | names what it reads (high entropy, as the order is free; nothing is perceived) |
| C | copies a number that the response holds already |
| A | writes the result of an addition |
| F | writes the final answer |
| T | template: tags, signs, the end |

Names are made of the letters A, B and C: `AB`, `BC`, `CA` for sides, `A`, `B`, `C` for
bars. Of a chart with a legend colours are read, too, and the largest may be asked for:

    <think>B=green 4 A=blue 7 C=red 2;4?7=7;7?2=7;7=blue</think>\\boxed{blue}
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

PAD, EOS = "<pad>", "<eos>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
THINK, THINK_END, BOXED, BOXED_END = "<think>", "</think>", "\\boxed{", "}"
CONTROL_TOKENS = (PAD, EOS, VISION_START, VISION_END, IMAGE, VIDEO)
ANSWER_TOKENS = (THINK, THINK_END, BOXED, BOXED_END)
CHARACTERS = "0123456789+=; ?ABCP"
VOCABULARY = (*CONTROL_TOKENS, *ANSWER_TOKENS, *CHARACTERS)  # a token's id is its index
WORDS = ("red", "orange", "green", "blue", "purple")  # a token each
WITH_WORDS = (*VOCABULARY, "L", *WORDS)  # of the tasks that need them

QUESTION = "P?"  # of a triangle the perimeter, of any picture the sum of what it shows
ASK_LARGEST = "L?"  # which colour has the largest value; as long as the other question
N_IMAGE_TOKENS = 9  # of one 84 x 84 picture, after merging

_TOKEN = re.compile(
    "|".join(re.escape(token) for token in (*CONTROL_TOKENS, *ANSWER_TOKENS, *WORDS))
    + "|."
)

ROLES = "RNCAFT"
REWARD_FN = "areal_cppo.tasks.responses.reward_fn"  # as AReaL is told

Names = tuple[str, str, str]
Values = tuple[int, int, int]
Colours = tuple[str, str, str]  # out of `WORDS`

_ANSWER = rf"\\boxed\{{([0-9]+|{'|'.join(WORDS)})\}}"
_FORMAT = re.compile(f"<think>[^<]*</think>{_ANSWER}")
_BOXED = re.compile(_ANSWER)
_MAX_ANSWER_DIGITS = 4  # int() of a longer run is refused by Python, or slow


def split_tokens(text: str) -> list[str]:
    """Cut a text into tokens, as the tokenizer does; unknown characters stand alone."""
    return _TOKEN.findall(text)


@dataclass(frozen=True)
class Score:
    """What a response is worth.

    `correct`: what it boxed last is the answer, the sum or the colour of the largest.
    `format_ok`: it is one `<think>...</think>` followed by one boxed number or colour,
    and nothing else. `values_read`: the share of the three values, and of their colours
    where these are read, too, that were read right, the first reading of each name.
    `consistent`: it reads each name once, and its answer follows from what it read (so
    if it is not correct, perception is to blame).
    """

    correct: bool
    format_ok: bool
    values_read: float
    consistent: bool

    @property
    def reward(self) -> float:
        """0.9 for a correct answer, and 0.1 for the format."""
        return 0.9 * self.correct + 0.1 * self.format_ok


def right_answers(
    values: Sequence[int], colours: Sequence[str] = (), question: str = QUESTION
) -> list[int | str]:
    """The sum, or the colour of the largest value: of equal ones, each."""
    if question == QUESTION:
        return [sum(values)]
    pairs = zip(colours, values, strict=True)
    return [colour for colour, value in pairs if value == max(values)]


def reference_response(
    names: Names,
    values: Values,
    rng: random.Random,
    colours: Colours | None = None,
    question: str = QUESTION,
) -> tuple[str, list[str]]:
    """A right response that reads in a random order, ended by `<eos>`.

    Parameters
    ----------
    names, values
        What the picture shows; digits from 1 to 9.
    rng
        Draws the order.
    colours
        Of the values, where they are to be read as well.
    question
        `QUESTION`, or with colours `ASK_LARGEST`.

    Returns
    -------
    tuple[str, list[str]]
        The text, and the role of each of its tokens.
    """
    order = rng.sample(range(3), 3)
    first, second, third = (values[i] for i in order)
    parts = [(THINK, "T")]
    for place, i in enumerate(order):
        separator = " " if place < 2 else ";"
        parts += [(names[i], "N"), ("=", "T")]
        if colours:
            parts += [(colours[i], "R"), (" ", "T")]
        parts += [(str(values[i]), "R"), (separator, "T")]
    sign, join = ("+", operator.add) if question == QUESTION else ("?", max)
    result = join(first, second)
    total = join(result, third)
    answer = str(right_answers(values, colours or (), question)[0])
    for left, right, result in ((first, second, result), (result, third, total)):
        parts += [(str(left), "C"), (sign, "T"), (str(right), "C"), ("=", "T")]
        parts += [(str(result), "A"), (";", "T")]
    if question == QUESTION:
        parts.pop()
    else:
        parts += [(str(total), "C"), ("=", "T"), (answer, "A")]
    parts.append((THINK_END, "T"))
    parts += [(BOXED, "T"), (answer, "F"), (BOXED_END, "T"), (EOS, "T")]
    text = "".join(part for part, _ in parts)
    return text, [role for part, role in parts for _ in split_tokens(part)]


def token_roles(tokens: list[str]) -> list[str]:
    """The role of each token of a response, well formed or not.

    Up to the first `;` a response reads: a digit or colour is R if it follows a name's
    letter and `=`, a digit also if it follows a colour and a space, and a letter is N.
    From there on it reasons: a digit is A if its number follows `=`, and C otherwise,
    and so is a colour. After `\\boxed{` either is F. All else is T.

    Parameters
    ----------
    tokens
        The response as token strings, of any kind and in any order.

    Returns
    -------
    list[str]
        One letter of `ROLES` per token.
    """
    roles = []
    section = "reading"
    before, last = "", ""  # the two tokens before this one
    number_role = ""  # of the number that this digit goes on with, if any
    for token in tokens:
        role = "T"
        is_digit = len(token) == 1 and token in "0123456789"
        is_word = token in WORDS
        if section == "reading":
            if len(token) == 1 and token in "ABC":
                role = "N"
            elif is_digit or is_word:
                named = last == "=" and len(before) == 1 and before in "ABC"
                beside = is_digit and last == " " and before in WORDS
                role = "R" if named or beside else "T"
        elif (is_digit or is_word) and section == "sums":
            role = (is_digit and number_role) or ("A" if last == "=" else "C")
        elif is_digit or is_word:
            role = "F"
        number_role = role if is_digit else ""
        roles.append(role)
        if token == BOXED:
            section = "answer"
        elif token == BOXED_END or (token == ";" and section == "reading"):
            section = "sums"
        before, last = last, token
    return roles


def score_response(
    text: str,
    names: Names,
    values: Values,
    colours: Colours | None = None,
    question: str = QUESTION,
) -> Score:
    """Score a response; what follows its first `<eos>` is not looked at.

    Parameters
    ----------
    text
        The decoded response, with or without its `<eos>`.
    names, values, colours, question
        What the picture shows, and what is asked for; as of `reference_response`.

    Returns
    -------
    Score
        For any text at all.
    """
    text = text.split(EOS, 1)[0]
    answer = boxed_answer(text)
    readings = _reading(names, bool(colours)).findall(text.split(";", 1)[0])
    read: dict[str, tuple[str, int]] = {}
    for name, colour, digit in readings:
        read.setdefault(name, (colour, int(digit)))
    right = []
    for name, value, colour in zip(names, values, colours or [""] * 3, strict=True):
        said_colour, said_value = read.get(name, (None, None))
        right += [said_value == value, *([said_colour == colour] if colours else [])]
    whole = len(readings) == len(read) == 3
    said_colours, said_values = zip(*read.values()) if whole else ((), ())
    return Score(
        correct=answer in right_answers(values, colours or (), question),
        format_ok=has_format(text),
        values_read=sum(right) / len(right),
        consistent=whole
        and answer in right_answers(said_values, said_colours, question),
    )


def boxed_answer(text: str) -> int | str | None:
    """What a text boxed last, a number or a colour; None where there is neither."""
    answers = _BOXED.findall(text)
    if not answers or answers[-1] in WORDS:
        return answers[-1] if answers else None
    return int(answers[-1]) if len(answers[-1]) <= _MAX_ANSWER_DIGITS else None


def has_format(text: str) -> bool:
    """Whether a text (without `<eos>`) is thinking, then one boxed answer."""
    return _FORMAT.fullmatch(text) is not None


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: int | str,
    **kwargs: Any,
) -> dict[str, float]:
    """Whether what is boxed is the answer, and the format kept.

    The workflow calls it by its name, in a process of its own.

    Parameters
    ----------
    completions
        The decoded response, with or without its `<eos>`.
    answer
        The sum, or a colour.
    prompt, prompt_ids, completion_ids, kwargs
        Part of AReaL's signature; unused.

    Returns
    -------
    dict
        Parts `answer` and `format`, 0 or 1.
    """
    text = completions.split(EOS, 1)[0]
    correct = boxed_answer(text) == (answer if answer in WORDS else int(answer))
    return {"answer": float(correct), "format": float(has_format(text))}


@cache
def _reading(names: Names, coloured: bool) -> re.Pattern[str]:
    """A name that stands alone, the colour where there are any, and the one digit."""
    colour = rf"({'|'.join(WORDS)}) " if coloured else "()"
    return re.compile(rf"(?<![ABC])({'|'.join(names)})={colour}([0-9])(?![0-9])")
