"""The forward passes of one micro-batch: of two views, where gated, and the anchor.

Letters: `L` tokens of the micro-batch's responses, each whole; `N` those whose
distribution the loss asks for; `G` gated ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from areal_cppo.core import TokenStatistics, token_statistics
from areal_cppo.core.head import CHUNK, Projection
from areal_cppo.training.meter import Meter
from areal_cppo.training.micro_batches import Passes
from areal_cppo.training.packing import PackedRow, next_tokens
from areal_cppo.training.perception import Hidden, PerceptionLoss, Selection
from areal_cppo.training.speed import SpeedConfig
from areal_cppo.training.tap import ModelTap, at_least_one, hidden_states
from areal_cppo.training.views import ResponseViews, packed_view


@dataclass(frozen=True)
class Output:
    """What the passes of a micro-batch gave; the loss is made of it.

    Attributes
    ----------
    statistics
        `[N]` each, of the anchor.
    row, selection, to_positive, to_negative
        What CPL needs beside; `None` where there was no view pass.
    """

    statistics: TokenStatistics
    row: PackedRow | None = None
    selection: Selection | None = None
    to_positive: Tensor | None = None
    to_negative: Tensor | None = None


class ModelPasses:
    """Runs micro-batches through a model.

    Parameters
    ----------
    tap
        The model.
    temperature
        Of the policy's distribution.
    speed
        `actor.speed`, read at each pass.
    meter
        Told how long view passes take and how large they are.
    """

    def __init__(
        self, tap: ModelTap, temperature: float, speed: SpeedConfig, meter: Meter
    ):
        self.tap = tap
        self.temperature = temperature
        self.speed = speed
        self.meter = meter

    def anchor(self, passes: Passes, mb: dict[str, Any]) -> Output:
        """The anchor's pass alone; `mb` is AReaL's dictionary of the micro-batch."""
        places, labels = self._asked(passes, mb)

        def read(hidden: Tensor, project: Projection) -> TokenStatistics:
            return self._statistics(hidden, project, labels)

        statistics = self.tap.run(passes.anchor, places, read)
        return Output(_first(statistics, len(passes.needed)))

    def with_views(
        self,
        passes: Passes,
        mb: dict[str, Any],
        row: PackedRow,
        views: Mapping[int, ResponseViews],
        perception: PerceptionLoss,
        version: int,
    ) -> Output:
        """Both views' passes and the anchor's.

        Parameters
        ----------
        passes, mb
            The micro-batch.
        row
            Its tokens, as CPL sees them.
        views
            By the rows that `passes.view` names.
        perception
            Selects and compares.
        version
            Current policy version.
        """
        negative, positive = (
            self._view(passes, row, views, kind, kind in perception.config.grad)
            for kind in ("negative", "positive")
        )
        places, labels = self._asked(passes, mb)
        at_gate = row.gate[passes.needed].nonzero().flatten()
        selections = []

        def read(hidden: Tensor, project: Projection):
            statistics = self._statistics(hidden, project, labels)
            at = Hidden(hidden[at_gate], positive, negative)
            selection = perception.select(at.anchor, at.negative, project, row, version)
            selections.append(selection)
            # Enabled where the views' passes had no graph, too: the anchor has one.
            return statistics, *perception.divergences(at, project, row, selection)

        statistics, *divergences = self.tap.run(passes.anchor, places, read)
        statistics = _first(statistics, len(passes.needed))
        return Output(statistics, row, *selections, *divergences)

    @torch.no_grad()
    def selection(
        self,
        passes: Passes,
        row: PackedRow,
        views: Mapping[int, ResponseViews],
        perception: PerceptionLoss,
        version: int,
    ) -> Selection:
        """What `with_views` would select: the negative view's pass and the anchor's."""
        gated = row.gate.nonzero().flatten()
        negative = self._view(passes, row, views, "negative", has_grad=False)

        selections = []

        def read(hidden: Tensor, project: Projection) -> Tensor:
            at_gate = hidden[: len(gated)]
            selections.append(
                perception.select(at_gate, negative, project, row, version)
            )
            return hidden_states(hidden, project)

        self.tap.run(passes.anchor, at_least_one(passes.anchor.places[gated]), read)
        return selections[0]

    def _view(
        self,
        passes: Passes,
        row: PackedRow,
        views: Mapping[int, ResponseViews],
        kind: str,
        has_grad: bool,
    ) -> Tensor:
        """Hidden states `[G, D]` of one view at the gated tokens."""
        view = passes.view
        places = passes.view_places[row.gate]
        pixel_values = packed_view(
            [views[i] for i in view.image_rows], kind, view.inputs["pixel_values"]
        )
        with self.meter.time(f"{kind}_view"):
            with nullcontext() if has_grad else torch.no_grad():
                hidden = self.tap.run(
                    view,
                    at_least_one(places),
                    hidden_states,
                    pixel_values=pixel_values,
                )
        tokens = view.inputs["input_ids"]
        self.meter.view_pass(tokens.numel(), len(pixel_values), tokens.device)
        return hidden[: len(places)]

    def _asked(self, passes: Passes, mb: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Places in the anchor's row that are read, those of the loss first, and the
        tokens that they predict."""
        places = passes.anchor.places[passes.needed]
        labels = next_tokens(mb)[passes.needed]
        if not self.speed.response_logits:
            others = torch.ones_like(passes.anchor.inputs["input_ids"][0])
            others[places] = 0
            places = torch.cat([places, others.nonzero().flatten()])
        places = at_least_one(places)
        padding = len(places) - len(labels)
        return places, torch.nn.functional.pad(labels, (0, padding))

    def _statistics(
        self, hidden: Tensor, project: Projection, labels: Tensor
    ) -> TokenStatistics:
        chunk_size = CHUNK if self.speed.response_logits else None
        return token_statistics(hidden, project, labels, self.temperature, chunk_size)


def _first(statistics: TokenStatistics, count: int) -> TokenStatistics:
    return TokenStatistics(*(column[:count] for column in statistics))
