"""The tasks of `areal_cppo.tasks`, as studies take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from areal_cppo.studies.task import NO_SHIFT
from areal_cppo.tasks import responses, sampling, vocabulary
from areal_cppo.tasks.shifts import SHIFTS
from areal_cppo.tasks.task import Problem, ReadingTask


class ReadingStudy:
    """A `StudyTask` made of a task whose pictures show three values."""

    question = vocabulary.QUESTION
    shifts = SHIFTS

    def __init__(self, task: ReadingTask):
        self._task = task
        self.name = task.name
        self.checkpoint = task.checkpoint

    def make_problem(
        self, seed: int, index: int, split: str, shift: str = NO_SHIFT
    ) -> Problem:
        return self._task.make_problem(seed, index, split, shift)

    def token_roles(self, tokens: list[str]) -> list[str]:
        return responses.token_roles(tokens)

    def score(self, text: str, problem: Problem) -> responses.Score:
        return problem.score(text)

    def given_answer(self, text: str) -> str:
        answer = responses.boxed_answer(text)
        return "none" if answer is None else str(answer)

    def pixels(self, problems: Sequence[Problem]) -> torch.Tensor:
        return sampling.problem_pixels(problems)
