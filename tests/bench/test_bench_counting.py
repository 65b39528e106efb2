"""Counts against numbers worked out by hand, on toys.

Covers live bytes (temporaries, views, in-place operations, what is there before,
resized storages, gradients), operations of products and of attention, causal, masked
and packed, and that a forward pass under gradient checkpointing is counted once.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from areal_cppo.bench.counting import Counter, count_step, packed_products
from areal_cppo.step.attention import torch_flash
from tests.step.flash_on_cpu import flash_on_cpu

KIB = 1024


def tensor(kib: int) -> torch.Tensor:
    return torch.zeros(kib * KIB // 4)


def test_a_temporary_counts_while_it_lives():
    with Counter() as counter:
        kept = tensor(4)
        temporary = tensor(16)
        assert counter.current == 20 * KIB
        del temporary
        assert counter.current == 4 * KIB
        other = kept + 1
    assert counter.current == 8 * KIB and counter.peak == 20 * KIB
    del other
    assert counter.current == 4 * KIB  # and after the end, too


def test_views_and_in_place_operations_hold_nothing_of_their_own():
    with Counter() as counter:
        whole = tensor(8)
        part = whole.view(2, -1)[1]
        part.add_(1)
        del whole
        assert counter.current == counter.peak == 8 * KIB
        del part
    assert counter.current == 0


def test_what_is_there_before_counts_from_the_start():
    weight, stranger = tensor(8), tensor(32)
    with Counter([weight, weight[:10]]) as counter:
        weight.add_(1)
        doubled = weight * 2
        assert counter.current == 16 * KIB
        stranger.sum()
    assert counter.peak == 16 * KIB + 4
    assert doubled.numel() == weight.numel()


def test_a_storage_that_is_resized():
    """FSDP lets go of gathered weights this way."""
    with Counter() as counter:
        gathered = tensor(8)
        gathered.untyped_storage().resize_(0)
        assert counter.current == 0
        gathered.untyped_storage().resize_(8 * KIB)
    assert counter.current == counter.peak == 8 * KIB
    assert "Counter" not in torch.UntypedStorage.resize_.__qualname__  # put back


def test_the_peak_of_a_backward_pass():
    """exp keeps its output until its backward pass: at the peak there are the leaf,
    both outputs and a gradient, then the leaf, one output and two gradients."""
    leaf = tensor(64).requires_grad_()
    with Counter([leaf]) as counter:
        leaf.exp().exp().sum().backward()
        assert counter.current == 128 * KIB  # leaf and gradient
    assert counter.peak == 4 * 64 * KIB + 8  # two scalars


def test_products_forward_and_backward():
    a = torch.randn(3, 5, requires_grad=True)
    b = torch.randn(5, 7, requires_grad=True)
    with Counter() as counter:
        (a @ b).sum().backward()
    assert counter.flops == 3 * 2 * 3 * 5 * 7


HEADS, TOKENS, SIZE = 2, 64, 16
PRODUCT = 2 * HEADS * TOKENS * TOKENS * SIZE


@pytest.mark.parametrize(
    ("how", "share"),
    [
        ({}, 1),
        ({"is_causal": True}, 0.5),
        ({"attn_mask": torch.ones(TOKENS, TOKENS).bool().tril()}, 1),
    ],
)
def test_attention(how, share):
    """Two products forward; backward five, the scores among them once more."""
    q, k, v = torch.randn(3, 1, HEADS, TOKENS, SIZE).requires_grad_()
    with Counter() as counter:
        out = functional.scaled_dot_product_attention(q, k, v, **how)
        assert counter.flops == share * 2 * PRODUCT
        out.sum().backward()
    assert counter.flops == share * 7 * PRODUCT


def test_attention_of_packed_rows():
    """Query by query: a sequence of 3; 2 queries that continue 2 keys."""
    shape = torch.Size([5, HEADS, SIZE])
    products = packed_products(shape, [3, 2], [3, 4], causal=True)
    assert products == 2 * HEADS * SIZE * ((1 + 2 + 3) + (3 + 4))
    products = packed_products(shape, [3, 2], [3, 4], causal=False)
    assert products == 2 * HEADS * SIZE * (9 + 8)


@pytest.mark.parametrize("causal", [True, False])
def test_torchs_flash_attention_is_counted_sequence_by_sequence(causal):
    q, k, v = (torch.randn(n, HEADS, SIZE).requires_grad_() for n in (5, 7, 7))
    bounds = [torch.tensor([0, 3, n], dtype=torch.int32) for n in (5, 7)]
    products = packed_products(q.shape, [3, 2], [3, 4], causal)
    with flash_on_cpu((torch.float32,)), Counter() as counter:
        out = torch_flash(q, k, v, bounds, (3, 4), causal=causal, scaling=None)
        assert counter.flops == 2 * products
        out.sum().backward()
    assert counter.flops == 7 * products


def test_a_pass_under_checkpointing_counts_once():
    layer, visual = nn.Linear(4, 4), nn.Linear(6, 4)
    inner = SimpleNamespace(
        language_model=SimpleNamespace(layers=[layer]), visual=visual
    )
    tokens, patches = torch.zeros(1, 10, 4), torch.zeros(7, 6)

    def both(tokens, patches):
        return layer(tokens).sum() + visual(patches).sum()

    with count_step(SimpleNamespace(model=inner), layer.parameters()) as counts:
        checkpoint(both, tokens, patches, use_reentrant=False).backward()
        layer(input=tokens)
    assert (counts.tokens, counts.patches) == (20, 7)
    assert not layer._forward_pre_hooks
