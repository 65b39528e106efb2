"""Attention within packed rows, where responses share the keys of their prompt.

A row of tokens is cut into segments, and each segment's queries attend to a run of
keys: those of the segment itself and, before them, those of the prompt it continues.
Causal from the end: a segment's last query sees all of its keys. That is exact, because
a prompt's keys and values do not depend on what follows.

What computes it is `actor.attn_impl`:

| | |
| --- | --- |
| `torch_flash` | the flash-attention 2 that torch's builds for CUDA carry |
| `flash_attention_2` | the package flash-attn |
| `sdpa` | a call of torch's `scaled_dot_product_attention` per segment; anywhere |

Both kinds of flash-attention take all segments in one call, bfloat16 only, on GPUs from
Ampere (compute capability 8.0) on. None is taken in another's place.

Registered with transformers' `AttentionInterface` are `PACKED_ATTENTION`, which the
configuration of the vision-language models' text part names and whose caller passes
`packing`, and `torch_flash`, for the vision towers and for text models: their callers
pass `cu_seq_lens_q` and the like, as for flash-attn. Its name holds the word by which
transformers tells such an implementation, and by which it looks for a package when a
model is loaded: models are loaded with sdpa, and switched (`use_torch_flash`).

Letters: `T` tokens of a row, `K` keys of all its segments, `H` heads, `E` size of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import repeat_kv

from areal_cppo.config import FLASH_ATTN, SDPA, TORCH_FLASH

PACKED_ATTENTION = "areal_cppo_packed"


def torch_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    *,
    causal: bool,
    scaling: float | None,
) -> Tensor:
    """torch's own flash-attention over segments: `[T, H, E]`.

    Parameters
    ----------
    query
        `[T, H, E]`, bfloat16.
    key, value
        `[K, H or fewer, E]`.
    bounds
        Of the segments' queries and keys: int32 `[segments + 1]`, from 0.
    longest
        Queries and keys of the longest segments.
    causal
        A segment's last query sees all its keys, the one before it all but the last ...
    scaling
        Factor on the products of queries and keys; by default `E ** -0.5`.
    """
    dropout, debug = 0.0, False
    return torch.ops.aten._flash_attention_forward(
        query, key, value, *bounds, *longest, dropout, causal, debug, scale=scaling
    )[0]


def flash_attn(query, key, value, bounds, longest, *, causal, scaling) -> Tensor:
    """The package flash-attn over segments; as `torch_flash`."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=bounds[0],
        cu_seqlens_k=bounds[1],
        max_seqlen_q=longest[0],
        max_seqlen_k=longest[1],
        softmax_scale=scaling,
        causal=causal,
    )


FLASH: dict[str, Callable[..., Tensor]] = {
    TORCH_FLASH: torch_flash,
    FLASH_ATTN: flash_attn,
}


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
    kernel
        What computes it: `sdpa`, `torch_flash` or `flash_attention_2`.
    """

    queries: list[int]
    keys: list[int]
    key_index: Tensor | None
    device: torch.device
    kernel: str = SDPA
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

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Queries and keys of the longest segments."""
        return max(self.queries), max(self.keys)

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
    sliding_window: int | None = None,
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
    sliding_window
        The layer's, in tokens; None: it has none.

    Returns
    -------
    tuple
        `[1, T, H, E]`, and None in place of the weights.

    Raises
    ------
    ValueError
        A segment is longer than the sliding window, which would cut it.
    """
    _check_window(sliding_window, packing.longest[1])
    if packing.kernel == SDPA:
        return _sdpa(query, key, value, packing, scaling), None
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if packing.key_index is not None:
        key = key.index_select(0, packing.key_index)
        value = value.index_select(0, packing.key_index)
    output = FLASH[packing.kernel](
        *(query, key, value, packing.bounds, packing.longest),
        causal=True,
        scaling=scaling,
    )
    return output.unsqueeze(0), None


def torch_flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    is_causal: bool | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_,
) -> tuple[Tensor, None]:
    """Attention within sequences of a row, called as transformers' flash-attention is.

    Parameters
    ----------
    module, query, key, value, attention_mask, scaling, sliding_window
        As `packed_attention` takes them.
    cu_seq_lens_q, cu_seq_lens_k
        Bounds of the sequences: int32 `[sequences + 1]`, from 0.
    is_causal
        By default the layer's.

    Returns
    -------
    tuple
        `[1, T, H, E]`, and None in place of the weights.

    Raises
    ------
    ValueError
        The bounds are missing, or a sequence is longer than the sliding window.
    """
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        raise ValueError(
            f"attn_implementation={TORCH_FLASH}: expected a packed row with "
            "cu_seq_lens_q and cu_seq_lens_k, found none; use sdpa for padded batches"
        )
    longest = _longest(cu_seq_lens_q), _longest(cu_seq_lens_k)
    _check_window(sliding_window, longest[1])
    output = torch_flash(
        *(x.squeeze(0).transpose(0, 1) for x in (query, key, value)),
        (cu_seq_lens_q, cu_seq_lens_k),
        longest,
        causal=module.is_causal if is_causal is None else is_causal,
        scaling=scaling,
    )
    return output.unsqueeze(0), None


def use_torch_flash(model: nn.Module) -> None:
    """Have all attention of a model of transformers computed by `torch_flash`."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            config._attn_implementation = TORCH_FLASH


# All layers of a pass are called with the same bounds: the GPU is waited for once.
_LONGEST = WeakIdKeyDictionary()


def _longest(bounds: Tensor) -> int:
    if bounds not in _LONGEST:
        _LONGEST[bounds] = int(bounds.diff().max())
    return _LONGEST[bounds]


def _check_window(sliding_window: int | None, longest: int) -> None:
    if sliding_window is not None and longest > sliding_window:
        raise ValueError(
            f"expected sequences of at most {sliding_window} tokens, the model's "
            f"sliding window, found {longest}; lower data.max_prompt_tokens or "
            "gconfig.max_new_tokens"
        )


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


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionInterface.register(TORCH_FLASH, torch_flash_attention)
