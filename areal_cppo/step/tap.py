"""What a forward pass of a Qwen-VL model hands over, instead of logits.

FSDP2 gathers the weights of the output head within the root module's forward pass
alone, so whatever needs logits has to be computed there. The head is tapped: a pass
says what is to be done with the hidden states that come to it, and the result stands
where the logits would.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from areal_cppo.core.head import Projection
from areal_cppo.step.attention import PACKED_ATTENTION
from areal_cppo.step.images import SharedImages
from areal_cppo.step.rows import Row

Read = Callable[[Tensor, Projection], Any]


class ModelTap:
    """Runs rows through a model; at most one per model.

    Parameters
    ----------
    model
        `engine.model`, once AReaL has wrapped it: a Qwen-VL model or a `PeftModel`
        around one, sharded or not. Its text layers attend as the rows say from now on,
        and it can be called through `run` only.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        wrapped = model.get_base_model() if isinstance(model, PeftModel) else model
        inner = wrapped.model
        if wrapped is not model:
            # AReaL calls `engine.model.model.compute_3d_position_ids`, but the
            # attribute `model` of a PeftModel is the wrapped model itself.
            wrapped.compute_3d_position_ids = inner.compute_3d_position_ids
        self.positions: Callable[..., Tensor] = inner.compute_3d_position_ids
        inner.language_model.config._attn_implementation = PACKED_ATTENTION
        self._images = SharedImages(inner.visual)
        self._head = wrapped.lm_head
        self._project = self._head.forward
        self._head.forward = self._tapped
        self._read: Read | None = None

    @property
    def vocabulary(self) -> int:
        """Words that the output head tells apart."""
        return self._head.weight.shape[0]

    def run(
        self,
        row: Row,
        keep: Tensor,
        read: Read,
        *,
        pixel_values: Tensor | None = None,
    ) -> Any:
        """One forward pass of the model.

        Parameters
        ----------
        row
            What is computed.
        keep
            Int64 `[n]`: the places in the row whose hidden states are wanted, in any
            order and number, n >= 1.
        read
            Called with the hidden states `[n, D]` and the head's projection to logits,
            inside the forward pass.
        pixel_values
            In place of the row's own; same shape.

        Returns
        -------
        Any
            What `read` returned: tensors, alone or in (named) tuples.
        """
        inputs = row.inputs
        if pixel_values is not None:
            inputs = {**inputs, "pixel_values": pixel_values}
        with self._reading(read), self._images.ordered(row.image_order):
            return self.model(**inputs, logits_to_keep=keep).logits

    @contextmanager
    def _reading(self, read: Read):
        self._read = read
        try:
            yield
        finally:
            self._read = None

    def _tapped(self, hidden: Tensor) -> Any:
        return self._read(hidden.squeeze(0), self._project)


def hidden_states(hidden: Tensor, project: Projection) -> Tensor:
    """A `read` that wants no logits; a copy, because FSDP2 hooks what it returns."""
    return hidden.clone()


def at_least_one(places: Tensor) -> Tensor:
    """`places` `[n]`, or the first place of the row if there is none.

    A pass that is asked for nothing would leave out its last layers' collectives, for
    which other ranks wait.
    """
    return places if places.numel() else places.new_zeros(1)
