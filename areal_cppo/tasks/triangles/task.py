"""The task: read the three side lengths off a picture, and add them up.

`areal_cppo.tasks` says how it is asked and answered, and what each token of a
response is for.
"""

from __future__ import annotations

from areal_cppo.tasks.task import SPLITS, Problem, ReadingTask
from areal_cppo.tasks.triangles import checkpoint_dir
from areal_cppo.tasks.triangles.drawing import draw_triangle
from areal_cppo.tasks.vocabulary import (
    EOS,
    IMAGE,
    PAD,
    QUESTION,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
)

__all__ = [  # some of `areal_cppo.tasks` too, for those who use this task alone
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
