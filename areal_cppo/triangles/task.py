"""The task: read the three side lengths off a picture, and add them up.

`areal_cppo.synthetic` says how it is asked and answered, and what each token of a
response is for.
"""

from __future__ import annotations

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
    "PRIOR",
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


TRIANGLES = ReadingTask("triangles", SIDES, draw_triangle, checkpoint_dir())
# The same pictures, for a model that has learnt that most triangles are equilateral.
PRIOR = ReadingTask(
    "prior", SIDES, draw_triangle, checkpoint_dir("prior_checkpoint"), prior=0.7
)


def make_problem(seed: int, index: int, split: str = "train") -> Problem:
    """A problem of `TRIANGLES`, unshifted."""
    return TRIANGLES.make_problem(seed, index, split)
