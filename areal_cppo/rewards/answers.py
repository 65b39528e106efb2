"""Is a response's final answer right?

The final answer is the last `\\boxed{...}` of the response, after `</think>` if it is
there. Two libraries judge it, `mathruler` and `math-verify`; either may say yes. Both
are generous in ways that a policy would find out, so this module decides first what
needs no algebra, and shows them only what they are good at:

- **Multiple choice**, where the true answer is a letter: `B`, `(B)`, `B.`, `B. 12 cm`
  are B. The text of the option alone is not: it isn't known.
- **Words** (`Yes`, `isosceles`) are compared as words, whatever their case; a sentence
  that contains the word is wrong.
- **Units** may be left away or added. Given on both sides they have to be the same: no
  unit is converted, `50 mm` is not `5 cm`. Units are those that `units.py` knows.
- **Per cent** is a unit that may be left away, or carried out: where the truth is
  `50%`, `50` and `0.5` are right; where it is `0.5`, so is `50%`, but not `50`.
- **Decimals** are compared exactly: `5.0` is `5`, `1,000` is `1000`, `3.14` is not pi
  and `0.33` is not `1/3` (`math-verify` rounds to six places).
- **Names** before an equals sign may be left away: `x = 5` is `5`, but not `y = 5`.
- **What no answer should be** - longer than 400 characters, brackets deeper than 12,
  towers of powers, huge exponents or factorials - is right only if it is the truth
  letter by letter. What hangs in spite of this is for the time limit of `pool.py`.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from mathruler.grader import grade_answer

from areal_cppo.rewards.units import PERCENT, Unit, split_unit

# It warns that its own time limits are off; ours ends the process, which is safer.
logging.getLogger("math_verify").setLevel(logging.ERROR)

MAX_CHARACTERS = 400
MAX_DEPTH = 12

# The whole answer has to be one expression. Units are ours; left on, this removes them
# from `5c` and `5d` alike.
_WHOLE = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    ),
    boxed_match_priority=-1,
)

_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?\s*\.?")
_CHOSEN = re.compile(r"\(?\s*([A-Ja-j])\s*\)?\s*(?:[.):](.*))?", re.DOTALL)
_MORE_CHOICES = re.compile(r"[\s,;.:()/&]*[A-J][\sA-J,;.:()/&]*")
_SEVERAL = re.compile(r"[A-J](?:\s*,?\s*[A-J])+")
_DECIMAL = re.compile(r"([+-]?)\s*(\d*\.?\d+|\d+\.)")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d{1,3}(?: \d{3})+")
_MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+)/(\d+)(?![\d.])")
_NAME = re.compile(r"(?:m\s*)?\\?[A-Za-z][A-Za-z\\ ']*(?:_\{?\w+\}?)?(?:\(\w\))?")
_RELATION = re.compile(r"[=<>≤≥≠]|\\(?:l|g)e|\\(?:l|g)t(?![a-z])|\\ne")

# Words that are mathematics even without a backslash.
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "sqrt", "frac", "arcsin"}
_FUNCTIONS |= {"arccos", "arctan", "infty", "inf", "exp", "max", "min"}
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z])[A-Za-z]{3,}")
_TEXT = re.compile(r"[^\W\d_]{2}[^\W\d_\s'-]*(?:[\s'-]+[^\W\d_]+)*")

# What the libraries read as something else than what it says: `1 2` as 12, `2{3}` as
# 23, `5_6` as 5, `$5$ 6` as 5.
_MISREAD = re.compile(r"\d\s+\d|(?<!frac)\d\s*\{|\d\s*_|\$|\\\\\s*\d")

_GAP = r"[\s{}()]*"
_ENDLESS = re.compile(
    rf"\d{_GAP}(?:\^|\*\*){_GAP}\d+{_GAP}(?:\^|\*\*)"  # a tower of powers
    r"|(?:\^|\*\*)\s*[{(][\d\s.+*/-]*(?:\^|\*\*)"  # the same inside an exponent
    rf"|(?:\^|\*\*){_GAP}-?{_GAP}\d{{4,}}"  # an exponent of four digits or more
    r"|\d{4,}[\s})]*!|!\s*!"  # a factorial of as many, or twice over
)

_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "∠": r"\angle ",
        "°": r"^\circ ",
        "º": r"^\circ ",
        "²": "^2",
        "³": "^3",
        "½": " 1/2",
        "，": ",",
        "％": "%",
        "≈": "=",
        "∈": "=",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_SQUARE_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
_OPENED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm)\s*\{([^{}]*)\}")
_SIZES = re.compile(r"\\(?:left|right|big|Big|displaystyle|,|;|:|!|quad|qquad| )|~")
_SPACES = re.compile(r"\s+")
_IDLE_SPACE = re.compile(r"(?<!\d) | (?!\d)")


def final_answer(response: str) -> str | None:
    """The content of the last `\\boxed{...}`, or None where there is none.

    After the last `</think>` where there is one. A box that is never closed is none,
    even if there was an earlier one.
    """
    tail = response.rpartition("</think>")[2]
    boxes = list(_BOXED.finditer(tail))
    if not boxes:
        return None
    start = boxes[-1].end()
    depth = 1
    for brace in _BRACE.finditer(tail, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)  # escaped braces don't count
        if depth == 0:
            return tail[start : brace.start()].strip() or None
    return None


def is_correct(answer: str | None, truth: str) -> bool:
    """Whether `answer`, the content of a box, means the same as `truth`.

    Parameters
    ----------
    answer
        As `final_answer` returns it; None is wrong.
    truth
        The true answer; a box or dollars around it don't matter.

    Returns
    -------
    bool
        For any two texts; only texts built to take for ever do (the module's
        docstring says what is done about them).
    """
    truth = final_answer(truth) or truth
    if answer is None or not answer.strip() or not truth.strip():
        return False
    if answer.strip() == truth.strip():
        return True
    if _hostile(answer) or _hostile(truth):
        return False
    answer, truth = clean(answer), clean(truth)
    if _squeezed(answer) == _squeezed(truth):
        return True
    letter = _CHOICE.fullmatch(truth)
    if letter is not None:
        return _chosen(answer) == letter[1]
    if _SEVERAL.fullmatch(truth) and _SEVERAL.fullmatch(answer):
        return set(truth) - {",", " "} == set(answer) - {",", " "}
    if _TEXT.fullmatch(truth) or _TEXT.fullmatch(answer):
        return truth.casefold() == answer.casefold()
    return _same_value(answer, truth)


def _chosen(answer: str) -> str | None:
    """The letter of the option that a cleaned answer names, if it names just one."""
    match = _CHOSEN.fullmatch(answer)
    if match is None or _MORE_CHOICES.fullmatch(match[2] or ""):
        return None
    return match[1].upper()


def clean(answer: str) -> str:
    """One line of LaTeX with as little typography as the same answer can have."""
    text = answer.translate(_SYMBOLS)
    text = _SQUARE_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = text.replace(r"\(", " ").replace(r"\)", " ").replace(r"\$", "")
    text = text.replace(r"\%", "%").replace("{,}", ",").replace("$$", "$")
    text = re.sub(r"\\(?:approx|in)(?![a-z])", "=", text)
    text = re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = _OPENED.sub(r" \1 ", text)
    text = _SIZES.sub(" ", text)
    text = re.sub(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", ",", text)
    text = re.sub(r"(?<=\d)\s*,\s*,\s*(?=\d)", ", ", text)  # "1, and 2"
    text = _SPACES.sub(" ", text).strip()
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text.removeprefix("$").removesuffix(".").strip()  # "$5", "5."


def _same_value(answer: str, truth: str) -> bool:
    """Compare two cleaned answers that are neither a choice nor a word."""
    answer, answer_name = _split_name(answer)
    truth, truth_name = _split_name(truth)
    if answer_name and truth_name and _squeezed(answer_name) != _squeezed(truth_name):
        return False
    answer, answer_unit = split_unit(answer)
    truth, truth_unit = split_unit(truth)
    if answer_unit and truth_unit and answer_unit != truth_unit:
        return False
    if _equal(answer, truth):
        return True
    if _is_percent(truth_unit) and answer_unit is None:
        return _equal(f"({answer})*100", truth)
    if _is_percent(answer_unit) and truth_unit is None:
        return _equal(f"({answer})/100", truth)
    return False


def _equal(answer: str, truth: str) -> bool:
    """Whether two values are the same: exactly, or in the eyes of either library."""
    if _squeezed(answer) == _squeezed(truth):
        return True
    numbers = _number(answer), _number(truth)
    if None not in numbers:
        return numbers[0] == numbers[1]
    answer, truth = _prepared(answer), _prepared(truth)
    if any(_MISREAD.search(text) or _has_words(text) for text in (answer, truth)):
        return False
    relations = [_RELATION.search(text) is not None for text in (answer, truth)]
    if relations[0] != relations[1]:
        return False
    if verify(_parse(truth), _parse(answer), timeout_seconds=None):
        return True
    # mathruler drops what is left of a relation: to it, x <= 2 and x >= 2 are the same.
    return not any(relations) and grade_answer(answer, truth)


def _parse(text: str):
    return parse(f"${text}$", [_WHOLE], fallback_mode="no_fallback", parsing_timeout=0)


def _split_name(text: str) -> tuple[str, str | None]:
    """`x = 10/2 = 5` is 5, named x; `2x = 10` is an equation and stays one."""
    first, *rest = text.split("=")
    if not rest or not rest[-1].strip():
        return text, None
    if not first.strip():
        return "=".join(rest).strip(), None
    if any(_RELATION.search(part) for part in (first, *rest)):
        return text, None
    if _NAME.fullmatch(first.strip()) is None:
        return text, None
    return rest[-1].strip(), first.strip()


def _number(text: str) -> Fraction | None:
    """An integer or a decimal, exactly; thousands may be set apart."""
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    match = _DECIMAL.fullmatch(text)
    return None if match is None else Fraction(match[1] + match[2].rstrip("."))


def _prepared(text: str) -> str:
    """Without thousands' commas, and with mixed numbers written out as sums."""
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    return _MIXED.sub(r"(\1+\2/\3)", text)


def _has_words(text: str) -> bool:
    return any(word not in _FUNCTIONS for word in _WORD.findall(text))


def _is_percent(unit: Unit | None) -> bool:
    return unit == ((PERCENT, 1),)


def _squeezed(text: str) -> str:
    """Without spaces, but those between digits: `1 2` is not 12."""
    return _IDLE_SPACE.sub("", text)


def _hostile(text: str) -> bool:
    """Nothing that a person would write as an answer, or that a library survives."""
    if len(text) > MAX_CHARACTERS or _ENDLESS.search(text):
        return True
    depth = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        if depth > MAX_DEPTH:
            return True
    return False
