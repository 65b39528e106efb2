"""The contrastive loss and its sum over a global batch.

Covers closed forms, a naive loop, gradient routing, and that splitting a batch into
micro-batches changes neither loss nor gradient. Does not cover distributed reduction,
which is the trainer's.
"""

import math

import pytest
import torch

from areal_cppo.core import aggregate_token_loss, contrastive_perception_loss


def test_loss_closed_form():
    positive, negative = torch.tensor([0.2, 0.1, 0.3]), torch.tensor([0.2, 0.3, 0.1])
    loss = contrastive_perception_loss(positive, negative, tau=0.1)
    expected = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(2))]
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_loss_is_two_way_infonce():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.rand(2, 47, generator=generator)
    scores = torch.stack([-positive, -negative], dim=1) / 0.3
    expected = torch.nn.functional.cross_entropy(
        scores, torch.zeros(47, dtype=torch.long), reduction="none"
    )
    loss = contrastive_perception_loss(positive, negative, tau=0.3)
    torch.testing.assert_close(loss, expected)


def test_loss_gradient_is_a_sigmoid_of_either_sign():
    positive = torch.tensor([0.5, 0.0, 1e4], requires_grad=True)
    negative = torch.tensor([0.2, 1e4, 0.0], requires_grad=True)
    loss = contrastive_perception_loss(positive, negative, tau=0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    expected = torch.tensor([torch.sigmoid(torch.tensor(3.0)) / 0.1, 0.0, 10.0])
    torch.testing.assert_close(positive.grad, expected)
    torch.testing.assert_close(negative.grad, -expected)


def test_loss_gradient_stays_out_of_a_detached_branch():
    positive = torch.tensor([0.5], requires_grad=True)
    negative = torch.tensor([0.2], requires_grad=True)
    contrastive_perception_loss(positive, negative.detach(), 0.1).sum().backward()
    assert positive.grad is not None and negative.grad is None


def test_loss_refusals():
    one = torch.ones(1)
    for tau in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="tau: expected a number > 0"):
            contrastive_perception_loss(one, one, tau)
    with pytest.raises(ValueError, match="negative_divergence: expected shape"):
        contrastive_perception_loss(one, torch.ones(2), 0.1)


def test_aggregation_worked_example():
    # Sequence 7 has mean (1 + 3) / 2 = 2, sequence -1 has mean 5; 4 gated responses.
    loss, ids = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([7, -1, 7])
    assert aggregate_token_loss(loss, ids, "sequence", 4).item() == 7 / 4
    assert aggregate_token_loss(loss, ids, "token", 12).item() == 9 / 12
    tensor = torch.tensor(4)
    assert aggregate_token_loss(loss, ids, "sequence", tensor).item() == 7 / 4


def naive(loss, ids, aggregation, normalizer):
    if aggregation == "token":
        return sum(loss) / normalizer
    total = 0.0
    for sequence in set(ids):
        mine = [value for value, i in zip(loss, ids) if i == sequence]
        total += sum(mine) / len(mine)
    return total / normalizer


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_aggregation_equals_the_naive_loop(aggregation):
    generator = torch.Generator().manual_seed(1)
    loss = torch.rand(123, generator=generator)
    ids = torch.randint(-5, 5, (123,), generator=generator)
    value = aggregate_token_loss(loss, ids, aggregation, 47)
    expected = naive(loss.tolist(), ids.tolist(), aggregation, 47)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_single(aggregation, dtype):
    """8,000 tokens of 60.25 come to more than fp16 holds, and bf16 counts to 256."""
    loss = torch.full((8000,), 60.25, dtype=dtype, requires_grad=True)
    ids = torch.arange(8000) // 2000
    normalizer = 4 if aggregation == "sequence" else 8000
    value = aggregate_token_loss(loss, ids, aggregation, normalizer)
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(60.25)
    torch.testing.assert_close(loss.grad, torch.full_like(loss, 1 / 8000))
    far, near = torch.tensor([[30000.0], [1.0]], dtype=dtype)
    found = contrastive_perception_loss(far, near, tau=0.1)
    torch.testing.assert_close(found, (far.float() - 1) / 0.1)


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_packing_changes_neither_loss_nor_gradient(aggregation):
    """Defect 2 of the published fork: there the gradient depends on micro-batches."""
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(31, generator=generator)
    ids = torch.randint(0, 6, (31,), generator=generator)
    normalizer = 9 if aggregation == "sequence" else 31
    results = []
    for packing in ([[0, 1, 2, 3, 4, 5]], [[0], [1, 5], [], [4, 2, 3]]):
        loss = values.clone().requires_grad_()
        parts = [
            torch.isin(ids, torch.tensor(pack, dtype=torch.long)) for pack in packing
        ]
        total = sum(
            aggregate_token_loss(loss[part], ids[part], aggregation, normalizer)
            for part in parts
        )
        total.backward()
        results.append((total.detach(), loss.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize("normalizer", [0, 3])
def test_empty_selection_is_a_connected_zero(aggregation, normalizer):
    logits = torch.randn(4, requires_grad=True)
    none = torch.zeros(4, dtype=torch.bool)
    ids = torch.zeros(0, dtype=torch.long)
    value = aggregate_token_loss(logits[none], ids, aggregation, normalizer)
    value.backward()
    assert value.item() == 0 and (logits.grad == 0).all()


def test_aggregation_refusals():
    loss, ids = torch.ones(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="aggregation: expected one of sequence"):
        aggregate_token_loss(loss, ids, "mean", 1)
    with pytest.raises(ValueError, match="sequence_ids: expected shape"):
        aggregate_token_loss(loss, ids[:1], "token", 1)
    for count in (0, -1, math.nan, torch.tensor(0)):
        with pytest.raises(ValueError, match="normalizer: expected a count > 0"):
            aggregate_token_loss(loss, ids, "token", count)
