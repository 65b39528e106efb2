"""Attention within packed rows, where responses share the keys of their prompt.

A row of tokens is cut into segments, and each segment's queries attend to a run of
keys: those of the segment itself and, before them, those of the prompt it continues.
Causal from the end: a segment's last query sees all of its keys. That is exact, because
a prompt's keys and values do not depend on what follows, and it is what
flash-attention's `flash_attn_varlen_func` computes when there are more keys than
queries. Elsewhere a call of torch's `scaled_dot_product_attention` per segment does.

Registered with transformers' `AttentionInterface` under `PACKED_ATTENTION`; the text
model's configuration names it, and the model's caller passes `packing`.

Letters: `T` tokens of a row, `K` keys of all its segments, `H` heads, `E` size of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

PACKED_ATTENTION = "areal_cppo_packed"


@dataclass(frozen=True)
class Packing:
    """Which keys the segments of a row attend to.

    Attributes
    ----------
    queries
        Tokens per segment; their sum is T.
    keys
        Keys per segment, at least as many; their sum is K.
    key_index
        Int64 `[K]`: the token that each key comes from; `None` if K = T, each its own.
    device
        Where the row is.
    flash
        Whether flash-attention computes it.
    """

    queries: list[int]
    keys: list[int]
    key_index: Tensor | None
    device: torch.device
    flash: bool = False
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Of the segments' queries and keys: int32 `[segments + 1]`, from 0."""
        return tuple(
            torch.tensor(
                [0, *accumulate(lengths)], dtype=torch.int32, device=self.device
            )
            for lengths in (self.queries, self.keys)
        )

    def mask(self, queries: int, keys: int) -> Tensor:
        """Bool `[queries, keys]`: causal, the last query sees the last key."""
        if (queries, keys) not in self._masks:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=self.device)
            self._masks[queries, keys] = mask.tril(keys - queries)
        return self._masks[queries, keys]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    packing: Packing,
    scaling: float | None = None,
    **_,
) -> tuple[Tensor, None]:
    """Attention of one packed row, as transformers' layers call it.

    Parameters
    ----------
    module
        The attention layer.
    query
        `[1, H, T, E]`.
    key, value
        `[1, H or fewer, T, E]`.
    attention_mask
        None; `packing` says what sees what.
    packing
        Of the row.
    scaling
        Factor on the products of queries and keys; by default `E ** -0.5`.

    Returns
    -------
    tuple
        `[1, T, H, E]`, and None in place of the weights.
    """
    if packing.flash:
        return _flash(query, key, value, packing, scaling), None
    return _sdpa(query, key, value, packing, scaling), None


def _sdpa(query, key, value, packing: Packing, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if packing.key_index is not None:
        key = key.index_select(2, packing.key_index)
        value = value.index_select(2, packing.key_index)
    segments = zip(
        query.split(packing.queries, dim=2),
        key.split(packing.keys, dim=2),
        value.split(packing.keys, dim=2),
    )
    outputs = []
    for q, k, v in segments:
        n_q, n_k = q.shape[2], k.shape[2]
        own = n_q == n_k
        outputs.append(
            functional.scaled_dot_product_attention(
                q,
                repeat_kv(k, groups),
                repeat_kv(v, groups),
                attn_mask=None if own else packing.mask(n_q, n_k),
                is_causal=own,
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _flash(query, key, value, packing: Packing, scaling: float | None) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if packing.key_index is not None:
        key = key.index_select(0, packing.key_index)
        value = value.index_select(0, packing.key_index)
    of_queries, of_keys = packing.bounds
    output = flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=of_queries,
        cu_seqlens_k=of_keys,
        max_seqlen_q=max(packing.queries),
        max_seqlen_k=max(packing.keys),
        softmax_scale=scaling,
        causal=True,
    )
    return output.unsqueeze(0)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
