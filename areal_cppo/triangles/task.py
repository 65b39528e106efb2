"""The task: read the three side lengths off a picture, and add them up.

`areal_cppo.synthetic` says how it is asked and answered, and what each token of a
response is for.
"""

from __future__ import annotations

import random

from PIL import Image

from areal_cppo.synthetic.canvas import Style
from areal_cppo.synthetic.responses import Names, Values
from areal_cppo.synthetic.task import SPLITS, Problem, ReadingTask
from areal_cppo.synthetic.vocabulary import (
    EOS,
    IMAGE,
    PAD,
    QUESTION,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
)
from areal_cppo.triangles import checkpoint_dir
from areal_cppo.triangles.drawing import draw_triangle

__all__ = [  # some of `areal_cppo.synthetic` too, for those who use this task alone
    "EOS",
    "IMAGE",
    "PAD",
    "QUESTION",
    "SIDES",
    "SPLITS",
    "TRIANGLES",
    "VIDEO",
    "VISION_END",
    "VISION_START",
    "VOCABULARY",
    "Problem",
    "make_problem",
]

SIDES = ("AB", "BC", "CA")


def _draw(
    names: Names, values: Values, rng: random.Random, style: Style
) -> Image.Image:
    assert names == SIDES, names  # they are always in their places
    return draw_triangle(values, rng, style)


TRIANGLES = ReadingTask("triangles", SIDES, False, _draw, checkpoint_dir())


def make_problem(seed: int, index: int, split: str = "train") -> Problem:
    """A problem of `TRIANGLES`, unshifted."""
    return TRIANGLES.make_problem(seed, index, split)
