"""The task: read the three side lengths off a picture, and add them up.

A good response reads first and reasons afterwards,

    <think>BC=7 AB=7 CA=1;7+7=14;14+1=15</think>\\boxed{15}

with the sides in any order, so it is known of every token what it is for. Its role is
one letter:

| role | the token |
| --- | --- |
| R | reads a digit off the picture: the true perception tokens |
| N | names a side (high entropy, as the order is free, but nothing is perceived) |
| C | copies a number that the response holds already |
| A | writes the result of an addition |
| F | writes the final answer |
| T | template: tags, signs, the end |

This module needs neither torch nor transformers: rewards are computed in processes of
their own.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from PIL import Image

from areal_cppo.triangles.drawing import draw_triangle

SIDES = ("AB", "BC", "CA")
ROLES = "RNCAFT"
SPLITS = ("train", "held_out", "warm_up")  # streams that share no problem

PAD, EOS = "<pad>", "<eos>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
THINK, THINK_END, BOXED, BOXED_END = "<think>", "</think>", "\\boxed{", "}"
CONTROL_TOKENS = (PAD, EOS, VISION_START, VISION_END, IMAGE, VIDEO)
ANSWER_TOKENS = (THINK, THINK_END, BOXED, BOXED_END)
CHARACTERS = "0123456789+=; ?ABCP"
VOCABULARY = (*CONTROL_TOKENS, *ANSWER_TOKENS, *CHARACTERS)  # a token's id is its index

QUESTION = "P?"  # the perimeter?
N_IMAGE_TOKENS = 9  # of one 84 x 84 picture, after merging

_TOKEN = re.compile(
    "|".join(re.escape(token) for token in (*CONTROL_TOKENS, *ANSWER_TOKENS)) + "|."
)
_FORMAT = re.compile(r"<think>[^<]*</think>\\boxed\{[0-9]+\}")
_BOXED_NUMBER = re.compile(r"\\boxed\{([0-9]+)\}")
_READING = re.compile(r"(AB|BC|CA)=([0-9])(?![0-9])")
_MAX_ANSWER_DIGITS = 4  # int() of a longer run is refused by Python, or slow


@dataclass(frozen=True)
class Problem:
    """One picture and what it shows: `sides` are the lengths of AB, BC and CA."""

    sides: tuple[int, int, int]
    image: Image.Image

    @property
    def answer(self) -> int:
        """The perimeter."""
        return sum(self.sides)


@dataclass(frozen=True)
class Score:
    """What a response is worth.

    `correct`: its last boxed number is the perimeter. `format_ok`: it is one
    `<think>...</think>` followed by one boxed number, and nothing else. `sides_read`:
    the share of the three sides that were read right, the first reading of each.
    `consistent`: it reads each side once, and its answer is the sum of what it read
    (so if it is not correct, perception is to blame).
    """

    correct: bool
    format_ok: bool
    sides_read: float
    consistent: bool

    @property
    def reward(self) -> float:
        """0.9 for a correct answer, and 0.1 for the format."""
        return 0.9 * self.correct + 0.1 * self.format_ok


def make_problem(seed: int, index: int, split: str = "train") -> Problem:
    """Make a problem: the same one for the same arguments, on every machine.

    Parameters
    ----------
    seed, index
        Which stream, and which problem of it.
    split
        One of `SPLITS`: whatever the seed, no two splits share a stream.

    Raises
    ------
    ValueError
        If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split out of {SPLITS}, got {split!r}")
    rng = random.Random(f"areal_cppo.triangles/{split}/{seed}/{index}")
    sides = (rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 9))
    return Problem(sides, draw_triangle(sides, rng))


def split_tokens(text: str) -> list[str]:
    """Cut a text into tokens, as the tokenizer does; unknown characters stand alone."""
    return _TOKEN.findall(text)


def reference_response(
    sides: tuple[int, int, int], rng: random.Random
) -> tuple[str, list[str]]:
    """A right response that reads the sides in a random order, ended by `<eos>`.

    Parameters
    ----------
    sides
        Lengths of AB, BC and CA.
    rng
        Draws the order.

    Returns
    -------
    tuple[str, list[str]]
        The text, and the role of each of its tokens.
    """
    order = rng.sample(range(3), 3)
    first, second, third = (sides[i] for i in order)
    parts = [(THINK, "T")]
    for place, i in enumerate(order):
        separator = " " if place < 2 else ";"
        parts += [(SIDES[i], "N"), ("=", "T"), (str(sides[i]), "R"), (separator, "T")]
    subtotal = first + second
    for left, right, result, end in (
        (first, second, subtotal, ";"),
        (subtotal, third, subtotal + third, THINK_END),
    ):
        parts += [(str(left), "C"), ("+", "T"), (str(right), "C"), ("=", "T")]
        parts += [(str(result), "A"), (end, "T")]
    parts += [(BOXED, "T"), (str(sum(sides)), "F"), (BOXED_END, "T"), (EOS, "T")]
    text = "".join(part for part, _ in parts)
    return text, [role for part, role in parts for _ in split_tokens(part)]


def token_roles(tokens: list[str]) -> list[str]:
    """The role of each token of a response, well formed or not.

    Up to the first `;` a response reads: a digit is R if it follows a side's letter and
    `=`, and a letter is N. From there on it reasons: a digit is A if its number follows
    `=`, and C otherwise. After `\\boxed{` a digit is F. All else is T.

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
        if section == "reading":
            if len(token) == 1 and token in "ABC":
                role = "N"
            elif is_digit and last == "=" and len(before) == 1 and before in "ABC":
                role = "R"
        elif is_digit and section == "sums":
            role = number_role or ("A" if last == "=" else "C")
        elif is_digit:
            role = "F"
        number_role = role if is_digit else ""
        roles.append(role)
        if token == BOXED:
            section = "answer"
        elif token == BOXED_END or (token == ";" and section == "reading"):
            section = "sums"
        before, last = last, token
    return roles


def score_response(text: str, sides: tuple[int, int, int]) -> Score:
    """Score a response; what follows its first `<eos>` is not looked at.

    Parameters
    ----------
    text
        The decoded response, with or without its `<eos>`.
    sides
        The true lengths of AB, BC and CA.

    Returns
    -------
    Score
        For any text at all.
    """
    text = text.split(EOS, 1)[0]
    answer = boxed_answer(text)
    readings = _READING.findall(text.split(";", 1)[0])
    read: dict[str, int] = {}
    for name, digit in readings:
        read.setdefault(name, int(digit))
    truth = dict(zip(SIDES, sides, strict=True))
    return Score(
        correct=answer == sum(sides),
        format_ok=has_format(text),
        sides_read=sum(read.get(name) == truth[name] for name in SIDES) / 3,
        consistent=len(readings) == len(read) == 3 and answer == sum(read.values()),
    )


def boxed_answer(text: str) -> int | None:
    """The last boxed number of a text, or None where there is no usable one."""
    numbers = _BOXED_NUMBER.findall(text)
    if not numbers or len(numbers[-1]) > _MAX_ANSWER_DIGITS:
        return None
    return int(numbers[-1])


def has_format(text: str) -> bool:
    """Whether a text (without `<eos>`) is thinking, then one boxed number."""
    return _FORMAT.fullmatch(text) is not None
