"""The forward passes of one micro-batch: of views, where gated, and of the anchor.

Letters: `L` tokens of the micro-batch's responses, each whole; `N` those whose
distribution the loss asks for; `G` gated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from areal_cppo.config.speed import SpeedConfig
from areal_cppo.core import TokenStatistics, token_statistics
from areal_cppo.core.head import CHUNK, Projection
from areal_cppo.step.meter import Meter
from areal_cppo.step.micro_batches import Passes
from areal_cppo.step.packing import PackedRow, next_tokens
from areal_cppo.step.tap import ModelTap, at_least_one, hidden_states
from areal_cppo.step.views import ResponseViews, packed_view

# Given hidden states `[n, D]` and the head's projection to logits.
AtGate = Callable[[Tensor, Projection], Any]
# Given the anchor's statistics at the same tokens, too.
More = Callable[[Tensor, Projection, TokenStatistics], Any]


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

    def anchor(
        self, passes: Passes, mb: dict[str, Any], more: More | None = None
    ) -> tuple[TokenStatistics, Any]:
        """The anchor's pass, which is that of the policy loss.

        Parameters
        ----------
        passes, mb
            The micro-batch; `mb` is AReaL's dictionary of it.
        more
            What else is asked of its distributions: called inside the pass, with the
            `N` needed tokens first. It returns tensors, alone or in (named) tuples.

        Returns
        -------
        tuple
            Statistics, `[N]` each, and what `more` returned.
        """
        places, labels = self._asked(passes, mb)

        def read(hidden: Tensor, project: Projection):
            statistics = self._statistics(hidden, project, labels)
            if more is None:
                return statistics, ()
            return statistics, more(hidden, project, statistics)

        statistics, extra = self.tap.run(passes.anchor, places, read)
        return _first(statistics, len(passes.needed)), extra

    @torch.no_grad()
    def at_gate(self, passes: Passes, row: PackedRow, read: AtGate) -> Any:
        """The anchor's pass for the gated tokens alone, without a graph.

        `read` is called inside it, with their hidden states `[G, D]`; it returns
        tensors.
        """
        gated = row.gate.nonzero().flatten()
        places = at_least_one(passes.anchor.places[gated])
        return self.tap.run(
            passes.anchor,
            places,
            lambda hidden, project: read(hidden[: len(gated)], project),
        )

    def view(
        self,
        passes: Passes,
        row: PackedRow,
        views: Mapping[int, ResponseViews],
        kind: str,
        scope: str,
        *,
        has_grad: bool,
    ) -> Tensor:
        """Hidden states `[G, D]` of one view at the gated tokens.

        Parameters
        ----------
        passes, row
            The micro-batch, and its gated tokens.
        views
            By the rows that `passes.view` names.
        kind
            Which of them: `negative` or `positive`.
        scope
            Under which the size of the pass is recorded.
        has_grad
            Whether the pass has a graph.
        """
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
        self.meter.view_pass(scope, tokens.numel(), len(pixel_values), tokens.device)
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
