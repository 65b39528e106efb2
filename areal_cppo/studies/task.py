"""What a study asks of a task; tasks are reached through nothing else.

All tasks share one vocabulary, prompt, response format and model architecture
(`areal_cppo.tasks`); problems, checkpoint and token roles are their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from areal_cppo.tasks.registry import reading_task

if TYPE_CHECKING:  # the command line names tasks without torch
    import torch

PERCEPTION = "R"  # the role of true perception tokens, in every task
TEMPLATE = "T"  # the role of tokens that no picture should change
NO_SHIFT = "none"


class StudyScore(Protocol):
    """What a response is worth, in parts and, with the default weights, in all."""

    correct: bool
    format_ok: bool
    values_read: float  # share of the picture's values that it reads right

    @property
    def reward(self) -> float: ...


class StudyProblem(Protocol):
    """One picture and the answer to the question about it."""

    image: Image.Image

    @property
    def answer(self) -> int | str: ...


class StudyTask(Protocol):
    """A synthetic task.

    Attributes
    ----------
    name
        Its key in the registry.
    checkpoint
        Folder of the model that all runs start from.
    question
        The prompt's text.
    shifts
        Held-out shifts that `make_problem` knows, `none` first.
    """

    name: str
    checkpoint: Path
    question: str
    shifts: tuple[str, ...]

    def make_problem(
        self, seed: int, index: int, split: str, shift: str = NO_SHIFT
    ) -> StudyProblem:
        """The same problem for the same arguments; splits (`train`, `held_out`,
        `warm_up`) share none. A shift changes how it is drawn, and nothing else."""

    def token_roles(self, tokens: list[str]) -> list[str]:
        """A letter per token of a response, well formed or not; `PERCEPTION` where it
        reads the picture, `TEMPLATE` where it cannot depend on it."""

    def score(self, text: str, problem: StudyProblem) -> StudyScore:
        """Score a response, decoded, with or without its `<eos>`."""

    def given_answer(self, text: str) -> str:
        """The answer that a response gives, for people to read; `none` if none."""

    def pixels(self, problems: Sequence[StudyProblem]) -> torch.Tensor:
        """The pictures for the model: float32 `[problems * 36, 1176]`."""


def study_task(name: str) -> StudyTask:
    """The task of a name, one of `areal_cppo.tasks.registry.TASK_NAMES`.

    Raises
    ------
    UserError
        There is none of that name.
    """
    from areal_cppo.studies.reading import ReadingStudy

    return ReadingStudy(reading_task(name))
