"""The triangle task, as studies take it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from areal_cppo.studies.task import NO_SHIFT
from areal_cppo.triangles import checkpoint_dir, sampling, task


class TrianglesTask:
    """Read three side lengths off a picture and add them up
    (`areal_cppo.triangles.task`)."""

    name = "triangles"
    question = task.QUESTION
    shifts = (NO_SHIFT,)

    def __init__(self):
        self.checkpoint = checkpoint_dir()

    def make_problem(
        self, seed: int, index: int, split: str, shift: str = NO_SHIFT
    ) -> task.Problem:
        if shift not in self.shifts:
            raise ValueError(
                f"shift: expected one of {', '.join(self.shifts)}, found {shift!r}; "
                "correct it"
            )
        return task.make_problem(seed, index, split)

    def token_roles(self, tokens: list[str]) -> list[str]:
        return task.token_roles(tokens)

    def score(self, text: str, problem: task.Problem) -> task.Score:
        return task.score_response(text, problem.sides)

    def given_answer(self, text: str) -> str:
        answer = task.boxed_answer(text)
        return "none" if answer is None else str(answer)

    def pixels(self, problems: Sequence[task.Problem]) -> torch.Tensor:
        return sampling.problem_pixels(problems)
