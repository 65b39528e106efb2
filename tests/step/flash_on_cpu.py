"""A stand-in for the flash-attention in torch's CUDA builds, where there is no GPU.

It takes the place of the two operators' missing CPU kernels, so that their schema and
torch's own derivative are in use. It refuses what the kernels refuse, and computes what
flash-attention's documentation says: sequences by cumulative lengths, the causal mask
aligned to the bottom right, keys shared by several heads. What the kernels themselves
compute is for `make gpu-check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def flash_on_cpu(dtypes=(torch.bfloat16, torch.float16)) -> Iterator[list[str]]:
    """Within, both operators run on the CPU; the list has a name for each call."""
    calls: list[str] = []
    library = torch.library.Library("aten", "IMPL", "CPU")

    def forward(query, key, value, cum_q, cum_k, max_q, max_k, dropout, causal, debug,
                *, scale=None, **options):  # fmt: skip
        calls.append("forward")
        assert dropout == 0 and not debug and not any(options.values())
        _refuse(query, key, value, cum_q, cum_k, max_q, max_k, dtypes)
        output = torch.empty_like(query)
        lse = torch.empty(query.shape[1], len(query), dtype=torch.float32)
        for q, k in _segments(cum_q, cum_k):
            scores = _scores(query[q], key[k], causal, scale)
            output[q] = (scores.softmax(-1) @ _heads(value[k], query)).transpose(0, 1)
            lse[:, q] = scores.logsumexp(-1).float()
        none = torch.empty(0)
        return output, lse, torch.zeros(2, dtype=torch.uint64), none, none

    def backward(grad, query, key, value, output, lse, cum_q, cum_k, max_q, max_k,
                 dropout, causal, state, unused, *, scale=None, **options):  # fmt: skip
        calls.append("backward")
        grads = [torch.zeros_like(x, dtype=torch.float64) for x in (query, key, value)]
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        for q, k in _segments(cum_q, cum_k):
            weights = _scores(query[q], key[k], causal, scale).softmax(-1)
            inner = grad[q].double().transpose(0, 1)
            product = inner @ _heads(value[k], query).transpose(-1, -2)
            rows = (product * weights).sum(-1, keepdim=True)
            scores = weights * (product - rows) * factor
            of_keys = scores.transpose(-1, -2) @ query[q].double().transpose(0, 1)
            grads[0][q] = (scores @ _heads(key[k], query)).transpose(0, 1)
            grads[1][k] += _fewer(of_keys, key)
            grads[2][k] += _fewer(weights.transpose(-1, -2) @ inner, key)
        return tuple(x.to(query.dtype) for x in grads)

    library.impl("_flash_attention_forward", forward)
    library.impl("_flash_attention_backward", backward)
    try:
        yield calls
    finally:
        library._destroy()


def _refuse(query, key, value, cum_q, cum_k, max_q, max_k, dtypes) -> None:
    assert query.ndim == key.ndim == value.ndim == 3
    assert {query.dtype, key.dtype, value.dtype} <= {*dtypes} and len(
        {query.dtype, key.dtype, value.dtype}
    ) == 1
    assert all(x.stride(-1) == 1 for x in (query, key, value))
    assert query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    assert query.shape[1] % key.shape[1] == 0 and key.shape == value.shape
    for bounds, longest, tokens in ((cum_q, max_q, query), (cum_k, max_k, key)):
        assert bounds.dtype == torch.int32 and bounds.is_contiguous()
        assert isinstance(longest, int) and longest >= int(bounds.diff().max())
        assert bounds[0] == 0 and bounds[-1] == len(tokens)


def _segments(cum_q: Tensor, cum_k: Tensor) -> Iterator[tuple[slice, slice]]:
    bounds = [b.tolist() for b in (cum_q, cum_k)]
    for q0, q1, k0, k1 in zip(*(part for b in bounds for part in (b, b[1:]))):
        yield slice(q0, q1), slice(k0, k1)


def _heads(keys: Tensor, query: Tensor) -> Tensor:
    """`[H, K, E]` in float64, keys repeated for the heads that share them."""
    repeat = query.shape[1] // keys.shape[1]
    return keys.double().transpose(0, 1).repeat_interleave(repeat, 0)


def _fewer(grad: Tensor, key: Tensor) -> Tensor:
    """`[H, K, E]` summed over the heads that share a key: `[K, Hk, E]`."""
    return grad.unflatten(0, (key.shape[1], -1)).sum(1).transpose(0, 1)


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float | None) -> Tensor:
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.double().transpose(0, 1) @ _heads(key, query).transpose(-1, -2)
    n_q, n_k = scores.shape[-2:]
    seen = torch.ones(n_q, n_k, dtype=torch.bool)
    if causal:
        seen = seen.tril(n_k - n_q)
    return (scores * factor).masked_fill(~seen, -torch.inf)
