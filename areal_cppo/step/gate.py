"""The gate and the views: what an objective compares, before any forward pass.

Views depend on images, run seed and policy version only, so that they can be made when
the gate has spoken: a response whose negative view equals its anchor is then known
before the global batch is counted, and samples of one group share one pair of views.

Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType
from torch import Tensor

from areal_cppo.metrics import UPDATE, Metric
from areal_cppo.step.batch import COUNTS, image_sets, images_of
from areal_cppo.step.metrics import Meter
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.rows import Row
from areal_cppo.step.views import ResponseViews, ViewMaker, Workshop


def gate_tokens(data: Mapping[str, Any], gate: str) -> Tensor:
    """Tokens that an objective may use, of a padded batch or a micro-batch.

    Parameters
    ----------
    data
        `loss_mask` and `advantages`, both already shifted as AReaL's loss sees them
        (position `t` predicts token `t + 1`).
    gate
        `positive_advantage` (arXiv 2601.00501) or `none`.

    Returns
    -------
    Tensor
        Bool, shape of `loss_mask`.
    """
    response = data["loss_mask"].bool()
    if gate == "none":
        return response
    return response & (data["advantages"] > 0)


@dataclass(frozen=True)
class Gated:
    """The gate's verdict on one optimiser step's batch, agreed on by all ranks.

    Attributes
    ----------
    passed
        Bool `[B]`: this rank's responses that pass.
    drawn
        Those of them that are compared: all, unless the objective's `responses` says
        otherwise.
    entering
        Those that enter the view passes.
    sets
        Per response the first one with the same images; None without an image.
    views
        By those first ones.
    count
        Responses that pass, of all ranks.
    """

    passed: Tensor
    drawn: Tensor
    entering: set[int]
    sets: list[int | None]
    views: dict[int, ResponseViews] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def nothing(cls, padded: Mapping[str, Any]) -> Gated:
        """No view is computed of a padded batch."""
        images = images_of(padded)
        none = torch.zeros(len(images)).bool()
        return cls(none, none, set(), image_sets(images))

    @property
    def all_drawn(self) -> Gated:
        """As if all responses that pass had been drawn."""
        entering = self.entering | set(self.passed.nonzero().flatten().tolist())
        return replace(self, drawn=self.passed, entering=entering)

    def pixel_values(self, row: Row, kind: str) -> Tensor:
        """What the vision tower gets of a row seen through one view: `[P, F]`."""
        return row.pixel_values(lambda i: self.views[i].pixel_values[kind])


def apply_gate(
    padded: Mapping[str, Any],
    *,
    gate: str,
    gate_first: bool,
    make_views: ViewMaker,
    workshop: Workshop,
    meter: Meter,
    version: int,
    ranks: Ranks,
    scope: str,
) -> Gated:
    """Decide on a batch, and make the views of the responses that pass.

    Parameters
    ----------
    padded
        AReaL's padded batch after `compute_advantages`.
    gate
        As `gate_tokens` takes it.
    gate_first
        `actor.speed.gate_first`.
    make_views
        Called once for each distinct set of images.
    workshop
        Where it is called.
    meter
        Told how long that is waited for.
    version
        Current policy version.
    ranks
        The data-parallel ranks, which all call this.
    scope
        Under which statistics are recorded.
    """
    images = images_of(padded)
    has_gated = gate_tokens(padded, gate).any(-1)
    has_image = torch.tensor(
        ["pixel_values" in item for item in images], device=has_gated.device
    )
    eligible = has_gated & has_image if gate_first else has_image
    candidates = eligible.nonzero().flatten().tolist()
    sets = image_sets(images)
    firsts = list(dict.fromkeys(sets[i] for i in candidates))
    with meter.time("perturb"):
        made = workshop.take(
            make_views, [images[i] for i in firsts], version, ranks.device
        )
    views = dict(zip(firsts, made, strict=True))
    own = {i: views[sets[i]] for i in candidates if has_gated[i]}
    passed = torch.zeros_like(has_gated)
    passed[[i for i, view in own.items() if view.usable]] = True
    _record(has_gated, has_image, passed, own, make_views.perturbations, scope)
    count = int(ranks.sum(passed.sum()))
    drawn = passed & (padded[COUNTS][:, 0] > 0) if COUNTS in padded else passed
    entering = set(drawn.nonzero().flatten().tolist() if gate_first else candidates)
    device = ranks.device
    return Gated(passed.to(device), drawn.to(device), entering, sets, views, count)


def _record(
    has_gated: Tensor,
    has_image: Tensor,
    passed: Tensor,
    views: Mapping[int, ResponseViews],
    kinds: Mapping[str, Any],
    scope: str,
) -> None:
    """What became of the responses at the gate, and of their views, under `scope`."""
    stats_tracker.denominator(
        **{
            f"{scope}/gated_responses": passed,
            f"{scope}/text_only_responses": has_gated & ~has_image,
            f"{scope}/unchanged_responses": has_gated & has_image & ~passed,
            f"{scope}/rows": torch.ones_like(passed),
        }
    )
    counts = {}
    for kind in kinds:
        images, unchanged = torch.zeros(2, len(passed))
        for i, view in views.items():
            images[i], unchanged[i] = view.images, view.unchanged[kind]
        counts[f"{scope}/{kind}_views"] = images
        counts[f"{scope}/{kind}_views_unchanged"] = unchanged
    stats_tracker.stat(
        **{name: count.to(passed.device) for name, count in counts.items()},
        denominator=f"{scope}/rows",
        reduce_type=ReduceType.SUM,
    )


def gate_metrics(
    scope: str, title: str, drawn: str, passes: str = "the negative view's"
) -> tuple[Metric, ...]:
    """What the gate and the passes of views record under a scope.

    The titles begin with `title`; `drawn` says which responses are compared, `passes`
    whose forward passes are counted.
    """

    def metric(name: str, key: str, what: str, unit: str, words: str) -> Metric:
        return Metric(
            f"{scope}_{name}", f"{title}, {what}", unit, words, f"{UPDATE}{scope}/{key}"
        )

    return (
        metric(
            "responses",
            "gated_responses",
            "responses",
            "responses",
            "Responses of the step that have an image and a negative view that differs "
            "from it.",
        ),
        metric(
            "view_sequences",
            "view_sequences",
            "view sequences",
            "responses",
            f"Those of them that went through the view's forward pass: {drawn}.",
        ),
        metric(
            "text_only_responses",
            "text_only_responses",
            "without an image",
            "responses",
            "Responses without an image: trained on with the policy loss as it is.",
        ),
        metric(
            "unchanged_responses",
            "unchanged_responses",
            "without a negative",
            "responses",
            "Responses none of whose negative views differs from its image: trained on "
            "with the policy loss as it is.",
        ),
        metric(
            "negative_views",
            "negative_views",
            "negative views",
            "images",
            "Images that a negative view was drawn for.",
        ),
        metric(
            "negative_views_unchanged",
            "negative_views_unchanged",
            "negative views unchanged",
            "images",
            "Negative views that equal their image; should be few.",
        ),
        metric(
            "view_tokens",
            "view_tokens",
            "view tokens",
            "tokens",
            f"Tokens that {passes} forward passes computed, prompts, fillers and "
            "padding included.",
        ),
        metric(
            "view_patches",
            "view_patches",
            "view patches",
            "patches",
            f"Image patches that {passes} forward passes computed.",
        ),
        metric(
            "tokens",
            "tokens",
            "tokens",
            "tokens",
            "Response tokens of these responses.",
        ),
    )
