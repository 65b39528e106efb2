"""What an objective is: an optimiser step that compares views of the images.

`areal_cppo.step.update` asks it, in this order: which responses enter the view passes
(they are packed together); what has to be known of the whole batch before the first
backward pass; and for each micro-batch with views, which passes of views to run, what
to take from the anchor's distributions, and what to add to the policy loss.

A new one is a file here with its `OBJECTIVE` and `METRICS`, and a line in
`areal_cppo.config.objectives`. Its mathematics and settings, if it has any, are pure
functions and a dataclass in `areal_cppo.core`, and a field of `CPPOActorConfig`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
from areal.utils import stats_tracker
from torch import Tensor

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.core import PatchLayout, TokenStatistics
from areal_cppo.core.head import Projection
from areal_cppo.step.batch import image_sets, images_of
from areal_cppo.step.gate import Gated, apply_gate, gate_tokens
from areal_cppo.step.metrics import Meter
from areal_cppo.step.model import Model
from areal_cppo.step.objectives.tokens import GatedTokens
from areal_cppo.step.pack import MicroBatch, Packer
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.views import ViewMaker, Workshop


@dataclass(frozen=True)
class Parts:
    """What a step works with.

    Attributes
    ----------
    config
        The actor's.
    model
        Runs passes.
    layout
        Of the model's images.
    pack
        Cuts batches into micro-batches.
    meter
        Told what takes how long.
    workshop
        Makes views.
    ranks
        The data-parallel ranks.
    version
        Current policy version.
    """

    config: CPPOActorConfig
    model: Model
    layout: PatchLayout
    pack: Packer
    meter: Meter
    workshop: Workshop
    ranks: Ranks
    version: int


class Objective(ABC):
    """One optimiser step; making one decides which responses enter the view passes.

    Parameters
    ----------
    parts
        What it works with.
    padded
        AReaL's padded batch after `compute_advantages`.
    """

    scope: ClassVar[str]  # under which statistics are recorded

    def __init__(self, parts: Parts, padded: dict[str, Any]):
        self.parts = parts
        self.gated: Gated = apply_gate(
            padded,
            gate=self.gate,
            gate_first=parts.config.speed.gate_first,
            make_views=self.view_maker(parts),
            workshop=parts.workshop,
            meter=parts.meter,
            version=parts.version,
            ranks=parts.ranks,
            scope=self.scope,
        )

    @classmethod
    def gate_of(cls, config: CPPOActorConfig) -> str:
        """As `gate_tokens` takes it."""
        return "none"

    @classmethod
    @abstractmethod
    def views_of(cls, config: CPPOActorConfig) -> dict[str, list[dict[str, Any]]]:
        """By kind (`negative`, `positive`) the perturbations of which one is drawn, as
        `parse_perturbations` takes them."""

    @property
    def prepares_all(self) -> bool:
        """Whether `prepare` needs views of all responses, not of the drawn ones alone:
        its micro-batches are then others than those of the update."""
        return False

    @classmethod
    def view_maker(cls, parts: Parts) -> ViewMaker:
        """What makes the views."""
        seed = parts.config.view_seed
        return ViewMaker(cls.views_of(parts.config), parts.layout, seed)

    @property
    def gate(self) -> str:
        """That of the configuration."""
        return self.gate_of(self.parts.config)

    def prepare(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Find out what the loss needs of the whole batch; all ranks call it once,
        before the first backward pass, with all of their micro-batches."""

    def tokens(self, micro_batch: MicroBatch) -> GatedTokens:
        """A micro-batch's tokens, gated: of the responses that were drawn."""
        drawn = self.gated.drawn[micro_batch.anchor.responses]
        return GatedTokens.of(micro_batch, self.gate, drawn)

    def look(self, micro_batch: MicroBatch, tokens: GatedTokens) -> Any:
        """Run the passes of the views that `compare` needs."""

    def compare(
        self,
        micro_batch: MicroBatch,
        tokens: GatedTokens,
        views: Any,
        hidden: Tensor,
        project: Projection,
        statistics: TokenStatistics,
    ) -> Any:
        """Take from the anchor's pass what the loss needs; called inside it.

        Parameters
        ----------
        micro_batch, tokens
            What is computed.
        views
            What `look` returned.
        hidden
            `[K, D]`, hidden states, of which the first W are those of the needed
            tokens.
        project
            The head's projection to logits.
        statistics
            `[K]` each, of the anchor's distributions there.

        Returns
        -------
        Any
            Tensors, alone or in (named) tuples.
        """
        return ()

    def shown(self, compared: Any) -> dict[str, Tensor]:
        """What a sample tells of the gated tokens, `[G]` each, of what `compare`
        returned; by names of `report.samples.TokenView`."""
        return {}

    def shape(
        self, micro_batch: MicroBatch, tokens: GatedTokens, compared: Any
    ) -> None:
        """Change the advantages that the micro-batch's policy loss takes, given what
        `compare` returned."""

    def loss(
        self, tokens: GatedTokens, compared: Any, logprobs: Tensor
    ) -> Tensor | None:
        """What is added to the policy loss of a micro-batch with views; None: nothing.

        Parameters
        ----------
        tokens
            The micro-batch's.
        compared
            What `compare` returned.
        logprobs
            `[T]`, the current policy's.
        """
        return None

    def view(
        self,
        micro_batch: MicroBatch,
        tokens: GatedTokens,
        kind: str,
        *,
        has_grad: bool,
    ) -> Tensor:
        """Hidden states `[G, D]` of one view's pass at the gated tokens."""
        pixel_values = self.gated.pixel_values(micro_batch.view, kind)
        config, row_tokens = self.parts.config, micro_batch.view.tokens
        together = row_tokens * len(self.views_of(config))
        with self.parts.meter.time(f"{kind}_view"):
            hidden = self.parts.model.view_at(
                micro_batch,
                tokens.gate,
                pixel_values,
                has_grad=has_grad,
                kept=together <= config.kept_view_tokens,
            )
        sizes = {
            f"{self.scope}/view_tokens": row_tokens,
            f"{self.scope}/view_patches": len(pixel_values),
        }
        stats_tracker.denominator(
            **{
                name: torch.ones(size, dtype=torch.bool, device=hidden.device)
                for name, size in sizes.items()
            }
        )
        return hidden


def start_objective(parts: Parts, padded: dict[str, Any]) -> Objective | None:
    """Begin an optimiser step on a batch; all ranks call it.

    `padded` is AReaL's batch after `compute_advantages`. None: there is nothing to
    compare on any rank.
    """
    if not parts.config.uses_views:
        return None
    objective = objective_of(parts.config)(parts, padded)
    return objective if objective.gated.count else None


def begin_views(parts: Parts, groups: Sequence[dict[str, Any]]) -> None:
    """Begin the views that the steps on a batch will ask for.

    `groups` are its items after `compute_advantages`, with their images.
    """
    config = parts.config
    if not config.uses_views:
        return
    kind = objective_of(config)
    items = [item for group in groups for item in images_of(group)]
    gate = kind.gate_of(config) if config.speed.gate_first else "none"
    gated = torch.cat([gate_tokens(group, gate).any(-1) for group in groups]).tolist()
    sets = image_sets(items)
    firsts = dict.fromkeys(
        first for first, passes in zip(sets, gated, strict=True) if passes
    )
    firsts.pop(None, None)  # those without an image
    make, device = kind.view_maker(parts), parts.ranks.device
    parts.workshop.begin(make, [items[i] for i in firsts], parts.version, device)


def objective_of(config: CPPOActorConfig) -> type[Objective]:
    return import_module(OBJECTIVES[config.objective].module).OBJECTIVE
