"""A task whose pictures show three named values; its problems are drawn as needed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from areal_cppo.tasks import responses
from areal_cppo.tasks.canvas import Style
from areal_cppo.tasks.responses import Names, Score, Values
from areal_cppo.tasks.shifts import draw_style

SPLITS = ("train", "held_out", "warm_up")  # streams that share no problem
LARGEST = 9  # of the values; the smallest is 1

Draw = Callable[[Values, random.Random, Style], Image.Image]


@dataclass(frozen=True)
class Problem:
    """One picture and what it shows: `values[i]` is that of `names[i]`.

    A response may read them in any order.
    """

    names: Names
    values: Values
    image: Image.Image

    @property
    def answer(self) -> int:
        """The sum of the values."""
        return sum(self.values)

    def score(self, text: str) -> Score:
        """What a response is worth, decoded, with or without its `<eos>`."""
        return responses.score_response(text, self.names, self.values)

    def reference_response(self, rng: random.Random) -> tuple[str, list[str]]:
        """A right response, read in a random order, and the roles of its tokens."""
        return responses.reference_response(self.names, self.values, rng)


@dataclass(frozen=True)
class ReadingTask:
    """Where problems of one kind come from.

    Attributes
    ----------
    name
        In configurations and commands, and of the streams of problems.
    names
        Of the three values.
    draw
        Draws the values, in the order of their names, with what is random from a
        `random.Random`.
    checkpoint
        Folder of the model that comes with the package (`synthetic.warmup.make_model`).
    prior
        Share of the split `warm_up` whose three values are all equal: a prior that a
        model can answer from without looking, and that other splits don't bear out.
    """

    name: str
    names: Names
    draw: Draw
    checkpoint: Path
    prior: float = 0.0

    def make_problem(
        self, seed: int, index: int, split: str = "train", shift: str = "none"
    ) -> Problem:
        """Make a problem: the same one for the same arguments, on every machine.

        Parameters
        ----------
        seed, index
            Which stream, and which problem of it.
        split
            One of `SPLITS`: whatever the seed, no two splits share a stream.
        shift
            One of `shifts.SHIFTS`: how the picture is drawn; its answer and layout are
            those of the unshifted problem.

        Raises
        ------
        ValueError
            If there is no such split or shift.
        """
        if split not in SPLITS:
            raise ValueError(f"expected a split out of {SPLITS}, got {split!r}")
        stream = f"areal_cppo.{self.name}/{split}/{seed}/{index}"
        style = draw_style(shift, random.Random(f"{stream}/{shift}"))
        rng = random.Random(stream)
        first, second, third = (rng.randint(1, LARGEST) for _ in range(3))
        values = (first, second, third)
        if (
            split == "warm_up"
            and random.Random(f"{stream}/prior").random() < self.prior
        ):
            values = (first, first, first)
        return Problem(self.names, values, self.draw(values, rng, style))
