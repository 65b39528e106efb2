"""`augmentation`: responses that are sampled from changed images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from areal_cppo.checks import (
    FRACTION,
    POSITIVE_FRACTION,
    Bool,
    Choice,
    Number,
    check_fields,
    setting,
)
from areal_cppo.core import parse_perturbations

# In a trajectory: int32 `[1, L]`, 1 in responses that were sampled from an image which
# isn't the one they are trained on. Their behaviour policy there is not known.
UNLIKE = "sampled_unlike"


@dataclass
class AugmentationConfig:
    """`augmentation`: the image that a response is sampled from, changed at random.

    Two usual ways: plain augmentation (whole groups see a changed image, and are
    trained on it) and NoisyRollout (arXiv 2504.13055: part of each group sees one, and
    all are trained on the original).
    """

    views: list[dict[str, Any]] = field(
        default_factory=list,
        metadata={"help": "perturbations of which one changes an image; empty: none"},
    )
    of: str = setting(
        "problems",
        Choice(("problems", "responses")),
        "problems: all responses to a problem see the changed image, or none; "
        "responses: part of each group does",
    )
    share: float = setting(
        0.5, POSITIVE_FRACTION, "of the problems, by chance, or of each group"
    )
    train_on: str = setting(
        "seen",
        Choice(("seen", "original")),
        "seen: the image that was sampled from; original: the problem's own, with no "
        "staleness weight, as the sampling policy's probabilities are not known there",
    )
    fades: bool = setting(
        False,
        Bool(),
        "whether the change fades as training goes on: after a share x of the run its "
        "strength is 1 - sigmoid(fade_steepness (x - fade_middle)) of that in views",
    )
    fade_middle: float = setting(
        0.667, FRACTION, "share of the run after which half of the strength is left"
    )
    fade_steepness: float = setting(
        30.0, Number(low=0, low_open=True), "how suddenly it fades"
    )

    def __post_init__(self) -> None:
        check_fields(self, "augmentation.")
        if self.on:
            for view in parse_perturbations(self.views, "augmentation.views"):
                if self.fades:
                    view.faded(1.0)

    @property
    def on(self) -> bool:
        """Whether any image is changed."""
        return bool(self.views)

    def left(self, step: int, steps: int | None) -> float:
        """Share of the strength that is left at a step of so many (None: unknown).

        Eq. 3 of arXiv 2504.13055, whose midpoint counts steps.
        """
        if not self.fades or not steps:
            return 1.0
        place = self.fade_steepness * (step / steps - self.fade_middle)
        return 0.5 * (1 - math.tanh(place / 2))  # 1 - sigmoid(place), for any place

    def seeing(self, size: int) -> int:
        """How many responses of a group of `size` see the changed image, if any do."""
        return round(self.share * size) if self.of == "responses" else size

    @property
    def trains_unlike(self) -> bool:
        """Whether responses are trained on another image than they are sampled from."""
        return self.on and self.train_on == "original"
