"""Rows of the anchor's logits, taken without a dense gradient of their own.

Letters: ``T`` packed response positions, ``N`` tapped ones, ``V`` vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _TapRows(torch.autograd.Function):
    """The same logits again, and some of their rows; one gradient for both."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return a view of ``[T, V]`` and a copy of its rows, ``[N, V]``."""
        ctx.set_materialize_grads(False)  # else a branch without loss costs [T, V]
        ctx.save_for_backward(rows)
        ctx.shape = logits.shape
        return logits.view_as(logits), logits.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logits: Tensor | None, grad_picked: Tensor | None
    ) -> tuple[Tensor | None, None]:
        """Return ``grad_logits`` with ``grad_picked`` added at the rows."""
        (rows,) = ctx.saved_tensors
        if grad_picked is None:
            return grad_logits, None
        if grad_logits is None:
            dense = grad_picked.new_zeros(ctx.shape)
            return dense.index_copy_(0, rows, grad_picked), None
        # Out of place: the incoming gradient belongs to autograd, which may have handed
        # it to others, and may be expanded.
        return grad_logits.index_add(0, rows, grad_picked), None


def tap_rows(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Take rows of logits that go into another loss as well.

    ``logits[rows]`` would do, but its gradient is a ``[T, V]`` of zeros around N rows,
    to be added to the ``[T, V]`` of the other loss. Here the rows' gradient is added to
    that of the other loss directly, provided that loss uses the logits returned here.

    Args:
        logits: ``[T, V]``, any float dtype.
        rows: ``[N]`` int64, distinct, in ``[0, T)``; N may be 0.

    Returns:
        The logits, ``[T, V]``, sharing memory and not to be changed in place; their
        rows, ``[N, V]``, a copy. Both carry gradient to ``logits``, which gets zeros
        when N is 0 and nothing else uses them.

    Raises:
        ValueError: shapes or types other than these.
    """
    if logits.dim() != 2:
        raise ValueError(
            f"logits: expected shape [T, V], found {list(logits.shape)}; "
            "flatten batch and time into T"
        )
    if rows.dim() != 1 or rows.dtype != torch.int64:
        raise ValueError(
            f"rows: expected an int64 tensor [N], found {rows.dtype} "
            f"{list(rows.shape)}; pass positions such as mask.nonzero().flatten()"
        )
    return _TapRows.apply(logits, rows)
