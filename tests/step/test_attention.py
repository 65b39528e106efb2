"""Attention within packed rows, by itself: who attends to whom.

Against a dense mask written by hand, gradients included, for every kernel; the
arguments that flash-attention gets, vision towers, bounds and sliding windows. Rows
themselves are in test_rows.py.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import accumulate
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.step.attention import (
    Packing,
    packed_attention,
    torch_flash_attention,
)
from tests.step.flash_on_cpu import flash_on_cpu

CPU = torch.device("cpu")
ANY_FLOAT = (torch.float32, torch.bfloat16)  # the kernels take no float32

# Of a group: the prompt's length, then what each response adds.
groups_of_lengths = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def dense_mask(groups) -> torch.Tensor:
    """Who sees whom in a row of groups, [T, T], token by token."""
    owner = []  # per token its group, its response (None: the prompt) and its turn
    for g, (prompt, own) in enumerate(groups):
        owner += [(g, None, t) for t in range(prompt)]
        for i, length in enumerate(own):
            owner += [(g, i, prompt + t) for t in range(length)]
    return torch.tensor(
        [
            [
                g == key_g and key_i in (i, None) and key_t <= t
                for key_g, key_i, key_t in owner
            ]
            for g, i, t in owner
        ]
    )


def packing_of(groups, kernel="sdpa") -> Packing:
    queries, keys, index, at = [], [], [], 0
    for prompt, own in groups:
        start, at = at, at + prompt
        queries.append(prompt)
        keys.append(prompt)
        index += range(start, at)
        for length in own:
            queries.append(length)
            keys.append(prompt + length)
            index += [*range(start, start + prompt), *range(at, at + length)]
            at += length
    return Packing(queries, keys, torch.tensor(index), CPU, kernel)


def attention_by_hand(query, key, value, mask):
    """Softmax of masked products, [1, T, H, E]; keys serve several heads each."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options
):
    """In place of the package flash-attn: what its documentation says of this
    function is what torch's operator computes."""
    assert options == {"softmax_scale": None, "causal": True}
    return torch.ops.aten._flash_attention_forward(
        *(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k),
        *(0.0, True, False),
    )[0]


@pytest.mark.parametrize("kernel", ["sdpa", "torch_flash", "flash_attention_2"])
@settings(max_examples=40)
@given(groups=groups_of_lengths, heads=st.sampled_from([(4, 4), (4, 2), (2, 1)]))
def test_attention_equals_a_dense_mask(kernel, groups, heads):
    with pytest.MonkeyPatch.context() as monkeypatch, flash_on_cpu(ANY_FLOAT) as calls:
        module = ModuleType("flash_attn")
        module.flash_attn_varlen_func = flash_attn_varlen_func
        monkeypatch.setitem(sys.modules, "flash_attn", module)
        mask = dense_mask(groups)
        generator = torch.Generator().manual_seed(1)
        tensors = [
            torch.randn(1, n, len(mask), 8, generator=generator).requires_grad_()
            for n in (heads[0], heads[1], heads[1])
        ]
        packing = packing_of(groups, kernel)
        output, weights = packed_attention(None, *tensors, None, packing=packing)
        assert weights is None
        expected = attention_by_hand(*tensors, mask)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        wanted = torch.randn(expected.shape, generator=generator)
        mine, theirs = (
            torch.autograd.grad((x * wanted).sum(), tensors) for x in (output, expected)
        )
        for x, y in zip(mine, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    assert calls == ([] if kernel == "sdpa" else ["forward", "backward"])


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), causal=st.booleans()
)
def test_attention_of_a_vision_tower(lengths, causal):
    """Images, or windows of them, each by itself; heads of size 80, as in the 3B."""
    generator = torch.Generator().manual_seed(1)
    tensors = [
        torch.randn(1, 2, sum(lengths), 80, generator=generator) for _ in range(3)
    ]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    of_token = torch.repeat_interleave(torch.tensor(lengths))
    mask = of_token[:, None] == of_token[None, :]
    if causal:
        mask = mask.tril()
    layer = SimpleNamespace(is_causal=True)
    how = {} if causal else {"is_causal": False}
    with flash_on_cpu(ANY_FLOAT):
        output, _ = torch_flash_attention(
            layer, *tensors, None, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, **how
        )
    torch.testing.assert_close(output, attention_by_hand(*tensors, mask))


def test_attention_without_bounds_is_refused():
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="expected a packed row with cu_seq_lens_q"):
        torch_flash_attention(SimpleNamespace(is_causal=True), x, x, x, None)


@pytest.mark.parametrize("kernel", ["sdpa", "torch_flash"])
@pytest.mark.parametrize("window", [None, 7, 6])
def test_a_sliding_window_cuts_nothing_or_is_refused(kernel, window):
    """Of a prompt of 4 and responses of 2 and 3 the longest sequence has 7."""
    packing = packing_of([(4, [2, 3])], kernel)
    x = torch.ones(1, 1, 9, 8, dtype=torch.bfloat16)
    with flash_on_cpu():
        attend = partial(packed_attention, None, x, x, x, None, packing=packing)
        if window == 6:
            with pytest.raises(ValueError, match="at most 6 tokens.*found 7"):
                attend(sliding_window=window)
        else:
            assert torch.equal(attend(sliding_window=window)[0], attend()[0])
