"""The model as a step uses it: rows go in, what is asked of their tokens comes out.

FSDP2 gathers the weights of the output head within the root module's forward pass
alone, so whatever needs logits has to be computed there. The head is tapped: a pass
says what is to be done with the hidden states that come to it, and the result stands
where the logits would. It is tensors, alone or in (named) tuples, which FSDP2 looks
through for those that have a gradient.

Letters: see `step/__init__.py`; `K` places of a row that a pass is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from areal_cppo.core import TokenStatistics, token_statistics
from areal_cppo.core.head import CHUNK, Projection
from areal_cppo.step.attention import PACKED_ATTENTION
from areal_cppo.step.pack import MicroBatch
from areal_cppo.step.rows import ImageOrder, Row

# Given hidden states `[K, D]` and the head's projection to logits.
Read = Callable[[Tensor, Projection], Any]
# Given the statistics at the same tokens, too.
Compare = Callable[[Tensor, Projection, TokenStatistics], Any]


class Model:
    """Runs micro-batches through a Qwen-VL model; at most one per model.

    Parameters
    ----------
    module
        `engine.model`, once AReaL has wrapped it: a Qwen-VL model or a `PeftModel`
        around one, sharded or not. Its text layers attend as rows say from now on, and
        it can be called through this class only.
    temperature
        Of the policy's distribution.
    """

    def __init__(self, module: nn.Module, temperature: float):
        self.module = module
        self.temperature = temperature
        wrapped = module.get_base_model() if isinstance(module, PeftModel) else module
        inner = wrapped.model
        if wrapped is not module:
            # AReaL calls `engine.model.model.compute_3d_position_ids`, but the
            # attribute `model` of a PeftModel is the wrapped model itself.
            wrapped.compute_3d_position_ids = inner.compute_3d_position_ids
        self.positions: Callable[..., Tensor] = inner.compute_3d_position_ids
        inner.language_model.config._attn_implementation = PACKED_ATTENTION
        self._images = SharedImages(inner.visual)
        self._layers = [
            part
            for part in module.modules()
            if isinstance(part, GradientCheckpointingLayer)
        ]
        self._head = wrapped.lm_head
        self._project = self._head.forward
        self._head.forward = self._tapped
        self._read: Read | None = None

    @property
    def vocabulary(self) -> int:
        """Words that the output head tells apart."""
        return self._head.weight.shape[0]

    def anchor(
        self,
        micro_batch: MicroBatch,
        compare: Compare | None = None,
        *,
        response_logits: bool = True,
    ) -> tuple[TokenStatistics, Any]:
        """The anchor's pass, which is that of the policy loss.

        Parameters
        ----------
        micro_batch
            What is computed.
        compare
            What else is asked of its distributions: called inside the pass, with the
            `W` needed tokens first.
        response_logits
            Whether logits are made of those alone, a few at a time; else of all.

        Returns
        -------
        tuple
            Statistics, `[W]` each, and what `compare` returned (else nothing).
        """
        row, count = micro_batch.anchor, len(micro_batch.needed)
        places = row.places[micro_batch.needed]
        if not response_logits:
            others = torch.ones_like(row.inputs["input_ids"][0])
            others[places] = 0
            places = torch.cat([places, others.nonzero().flatten()])
        places = _at_least_one(places)
        labels = micro_batch.labels[micro_batch.needed]
        labels = nn.functional.pad(labels, (0, len(places) - count))
        chunk_size = CHUNK if response_logits else None

        def read(hidden: Tensor, project: Projection) -> tuple[TokenStatistics, Any]:
            statistics = token_statistics(
                hidden, project, labels, self.temperature, chunk_size
            )
            if compare is None:
                return statistics, ()
            return statistics, compare(hidden, project, statistics)

        pixel_values = row.pixel_values(_pixels_of(micro_batch))
        statistics, compared = self.run(row, places, read, pixel_values)
        return TokenStatistics(*(column[:count] for column in statistics)), compared

    @torch.no_grad()
    def anchor_at(self, micro_batch: MicroBatch, tokens: Tensor, read: Read) -> Any:
        """The anchor's pass for some tokens alone, without a graph.

        `tokens` are bool `[T]`; `read` gets their hidden states.
        """
        row, count = micro_batch.anchor, int(tokens.sum())
        return self.run(
            row,
            _at_least_one(row.places[tokens]),
            lambda hidden, project: read(hidden[:count], project),
            row.pixel_values(_pixels_of(micro_batch)),
        )

    def view_at(
        self,
        micro_batch: MicroBatch,
        tokens: Tensor,
        pixel_values: Tensor,
        *,
        has_grad: bool,
        kept: bool = False,
    ) -> Tensor:
        """Hidden states of a view's pass at some tokens: `[G, D]`.

        `tokens` are bool `[T]`, all of them in the views' row; `pixel_values` `[P, F]`
        are that row's, of the view. `kept`: what its backward pass needs is kept, even
        under gradient checkpointing.
        """
        places = micro_batch.view_places[tokens]
        graph = nullcontext() if has_grad else torch.no_grad()
        with graph, self._kept() if kept else nullcontext():
            hidden = self.run(
                micro_batch.view, _at_least_one(places), _hidden_states, pixel_values
            )
        return hidden[: len(places)]

    def run(self, row: Row, keep: Tensor, read: Read, pixel_values: Tensor) -> Any:
        """One forward pass of the model.

        Parameters
        ----------
        row
            What is computed.
        keep
            Int64 `[K]`: the places in the row whose hidden states are wanted, in any
            order and number, K >= 1.
        read
            Called with them and the head's projection to logits, inside the pass.
        pixel_values
            Of the row's images: `[P, F]`.

        Returns
        -------
        Any
            What `read` returned.
        """
        inputs = row.inputs | {"pixel_values": pixel_values}
        self._read = read
        try:
            with self._images.ordered(row.image_order):
                return self.module(**inputs, logits_to_keep=keep).logits
        finally:
            self._read = None

    @contextmanager
    def _kept(self):
        """Within, no layer's activations are left to be computed again."""
        layers = [layer for layer in self._layers if layer.gradient_checkpointing]
        for layer in layers:
            layer.gradient_checkpointing = False
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = True

    def _tapped(self, hidden: Tensor) -> Any:
        return self._read(hidden.squeeze(0), self._project)


def _hidden_states(hidden: Tensor, project: Projection) -> Tensor:
    """A `read` that wants no logits; a copy, because FSDP2 hooks what it returns."""
    return hidden.clone()


def _at_least_one(places: Tensor) -> Tensor:
    """`places` `[K]`, or the first place of the row if there is none.

    A pass that is asked for nothing would leave out its last layers' collectives, for
    which other ranks wait.
    """
    return places if places.numel() else places.new_zeros(1)


def _pixels_of(micro_batch: MicroBatch) -> Callable[[int], Tensor]:
    return lambda i: micro_batch.images[i]["pixel_values"]


class SharedImages:
    """Encodes an image once, however often it appears in a row; at most one per model.

    transformers encodes the images that it is given, in the order of their tokens. Here
    the vision tower gets each distinct image once, and what it returns is repeated to
    that order. Exact: the tower sees one image at a time, and no text.

    Also keeps the row's packing from the tower: transformers from 5.9 on hands the
    keyword arguments of a call on to it.

    Parameters
    ----------
    visual
        The model's vision tower.
    """

    def __init__(self, visual: nn.Module):
        self._order: ImageOrder | None = None
        visual.register_forward_pre_hook(self._before, with_kwargs=True)
        visual.register_forward_hook(self._after)

    @contextmanager
    def ordered(self, order: ImageOrder | None):
        """Within, the tower is given distinct images, and the row's grid."""
        self._order = order
        try:
            yield
        finally:
            self._order = None

    def _before(self, module, args, kwargs):
        kwargs.pop("packing", None)
        if self._order is not None:
            kwargs["grid_thw"] = self._order.distinct_grid
        return args, kwargs

    def _after(self, module, args, output):
        if self._order is None:
            return output
        index = self._order.token_index
        output.pooler_output = output.pooler_output.index_select(0, index)
        if "deepstack_features" in output:  # Qwen3-VL
            output.deepstack_features = [
                features.index_select(0, index)
                for features in output.deepstack_features
            ]
        return output
