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
bars.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

PAD, EOS = "<pad>", "<eos>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
THINK, THINK_END, BOXED, BOXED_END = "<think>", "</think>", "\\boxed{", "}"
CONTROL_TOKENS = (PAD, EOS, VISION_START, VISION_END, IMAGE, VIDEO)
ANSWER_TOKENS = (THINK, THINK_END, BOXED, BOXED_END)
CHARACTERS = "0123456789+=; ?ABCP"
VOCABULARY = (*CONTROL_TOKENS, *ANSWER_TOKENS, *CHARACTERS)  # a token's id is its index

QUESTION = "P?"  # of a triangle the perimeter, of any picture the sum of what it shows
N_IMAGE_TOKENS = 9  # of one 84 x 84 picture, after merging


class Prompt(NamedTuple):
    """A picture of so many patches, and a question: `QUESTION`'s length is that of all.

    The defaults are those of 84 x 84 pixels.
    """

    question: str = QUESTION
    rows: int = 6
    columns: int = 6

    @property
    def n_patches(self) -> int:
        """Of the picture."""
        return self.rows * self.columns

    @property
    def n_image_tokens(self) -> int:
        """Of the picture, after merging 2 x 2 patches."""
        return self.n_patches // 4


_TOKEN = re.compile(
    "|".join(re.escape(token) for token in (*CONTROL_TOKENS, *ANSWER_TOKENS)) + "|."
)

ROLES = "RNCAFT"
REWARD_FN = "areal_cppo.tasks.responses.reward_fn"  # as AReaL is told

Names = tuple[str, str, str]
Values = tuple[int, int, int]

_FORMAT = re.compile(r"<think>[^<]*</think>\\boxed\{[0-9]+\}")
_BOXED_NUMBER = re.compile(r"\\boxed\{([0-9]+)\}")
_MAX_ANSWER_DIGITS = 4  # int() of a longer run is refused by Python, or slow


def split_tokens(text: str) -> list[str]:
    """Cut a text into tokens, as the tokenizer does; unknown characters stand alone."""
    return _TOKEN.findall(text)


@dataclass(frozen=True)
class Score:
    """What a response is worth.

    `correct`: its last boxed number is the sum. `format_ok`: it is one
    `<think>...</think>` followed by one boxed number, and nothing else. `values_read`:
    the share of the three values that were read right, the first reading of each name.
    `consistent`: it reads each name once, and its answer is the sum of what it read
    (so if it is not correct, perception is to blame).
    """

    correct: bool
    format_ok: bool
    values_read: float
    consistent: bool

    @property
    def reward(self) -> float:
        """0.9 for a correct answer, and 0.1 for the format."""
        return 0.9 * self.correct + 0.1 * self.format_ok


def reference_response(
    names: Names, values: Values, rng: random.Random
) -> tuple[str, list[str]]:
    """A right response that reads in a random order, ended by `<eos>`.

    Parameters
    ----------
    names, values
        What the picture shows; digits from 1 to 9.
    rng
        Draws the order.

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
        parts += [(names[i], "N"), ("=", "T"), (str(values[i]), "R"), (separator, "T")]
    subtotal = first + second
    for left, right, result, end in (
        (first, second, subtotal, ";"),
        (subtotal, third, subtotal + third, THINK_END),
    ):
        parts += [(str(left), "C"), ("+", "T"), (str(right), "C"), ("=", "T")]
        parts += [(str(result), "A"), (end, "T")]
    parts += [(BOXED, "T"), (str(sum(values)), "F"), (BOXED_END, "T"), (EOS, "T")]
    text = "".join(part for part, _ in parts)
    return text, [role for part, role in parts for _ in split_tokens(part)]


def token_roles(tokens: list[str]) -> list[str]:
    """The role of each token of a response, well formed or not.

    Up to the first `;` a response reads: a digit is R if it follows a name's letter and
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


def score_response(text: str, names: Names, values: Values) -> Score:
    """Score a response; what follows its first `<eos>` is not looked at.

    Parameters
    ----------
    text
        The decoded response, with or without its `<eos>`.
    names, values
        What the picture shows.

    Returns
    -------
    Score
        For any text at all.
    """
    text = text.split(EOS, 1)[0]
    answer = boxed_answer(text)
    readings = _reading(names).findall(text.split(";", 1)[0])
    read: dict[str, int] = {}
    for name, digit in readings:
        read.setdefault(name, int(digit))
    truth = dict(zip(names, values, strict=True))
    return Score(
        correct=answer == sum(values),
        format_ok=has_format(text),
        values_read=sum(read.get(name) == truth[name] for name in names) / 3,
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


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: list[int],
    completion_ids: list[int],
    answer: int | str,
    **kwargs: Any,
) -> dict[str, float]:
    """Whether the boxed number is the sum, and the format kept.

    The workflow calls it by its name, in a process of its own.

    Parameters
    ----------
    completions
        The decoded response, with or without its `<eos>`.
    answer
        The sum.
    prompt, prompt_ids, completion_ids, kwargs
        Part of AReaL's signature; unused.

    Returns
    -------
    dict
        Parts `answer` and `format`, 0 or 1.
    """
    text = completions.split(EOS, 1)[0]
    correct = boxed_answer(text) == int(answer)
    return {"answer": float(correct), "format": float(has_format(text))}


@cache
def _reading(names: Names) -> re.Pattern[str]:
    """A name that stands alone, and the one digit given for it."""
    return re.compile(rf"(?<![ABC])({'|'.join(names)})=([0-9])(?![0-9])")
