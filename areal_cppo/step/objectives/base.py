"""One optimiser step of an objective that compares views of the images.

The actor asks it, in this order: which responses enter the view passes (they are packed
together); what has to be known of the whole batch before the first backward pass; and
for each micro-batch with views, which passes to run and what to add to the policy loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from areal_cppo.config.experiment import CPPOActorConfig
from areal_cppo.core import PatchLayout, TokenStatistics
from areal_cppo.step.gate import apply_gate
from areal_cppo.step.meter import Meter
from areal_cppo.step.micro_batches import PASSES
from areal_cppo.step.packing import PackedRow
from areal_cppo.step.passes import ModelPasses
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.views import ViewMaker


@dataclass(frozen=True)
class Parts:
    """What a step works with.

    Attributes
    ----------
    config
        The actor's.
    passes
        Runs the model.
    layout
        Of the model's images.
    meter
        Told what takes how long.
    ranks
        The data-parallel ranks.
    version
        Current policy version.
    """

    config: CPPOActorConfig
    passes: ModelPasses
    layout: PatchLayout
    meter: Meter
    ranks: Ranks
    version: int


@dataclass(frozen=True)
class Output:
    """What the passes of a micro-batch gave; the loss is made of it.

    Attributes
    ----------
    statistics
        `[N]` each, of the anchor, at the tokens of the policy loss.
    views
        What the objective needs beside, in its own words; `None`: it adds nothing.
    """

    statistics: TokenStatistics
    views: Any = None


class ObjectiveStep(ABC):
    """One optimiser step; making one decides which responses enter the view passes.

    Parameters
    ----------
    parts
        What it works with.
    batch
        AReaL's padded batch after `compute_advantages`.
    views
        By kind (`negative`, `positive`) the perturbations of which one is drawn, as
        `parse_perturbations` takes them.
    gate
        As `gate_tokens` takes it.
    """

    scope: str  # under which statistics are recorded

    def __init__(
        self,
        parts: Parts,
        batch: dict[str, Any],
        views: dict[str, list[dict[str, Any]]],
        gate: str,
    ):
        self.parts = parts
        self.gate = gate
        self.gated = apply_gate(
            batch,
            gate=gate,
            gate_first=parts.config.speed.gate_first,
            make_views=ViewMaker(views, parts.layout, parts.config.view_seed),
            meter=parts.meter,
            version=parts.version,
            ranks=parts.ranks,
            scope=self.scope,
        )

    @abstractmethod
    def prepare(self, mbs: Sequence[dict[str, Any]]) -> None:
        """Find out what the loss needs of the whole batch; all ranks call it once,
        before the first backward pass, with all of their micro-batches."""

    @abstractmethod
    def run(self, mb: dict[str, Any]) -> Output:
        """The passes of a micro-batch with views."""

    @abstractmethod
    def add(
        self, loss: Tensor, output: Output, logprobs: Tensor, multiplier: float
    ) -> Tensor:
        """The loss of a micro-batch with views, whose part of the policy loss is
        `loss`.

        Parameters
        ----------
        loss
            A scalar.
        output
            What `run` returned.
        logprobs
            `[T]`, the current policy's.
        multiplier
            What the share of the global batch's loss is multiplied by, because
            gradients are averaged over ranks.
        """

    def row(self, mb: dict[str, Any]) -> PackedRow:
        """A micro-batch's tokens, gated."""
        entering = self.gated.rows[mb[PASSES].anchor.rows]
        return PackedRow.from_micro_batch(mb, self.gate, entering)

    def view(
        self, mb: dict[str, Any], row: PackedRow, kind: str, *, has_grad: bool
    ) -> Tensor:
        """Hidden states `[G, D]` of one view's pass at the row's gated tokens."""
        return self.parts.passes.view(
            mb[PASSES], row, self.gated.views, kind, self.scope, has_grad=has_grad
        )
