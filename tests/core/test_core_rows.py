"""Tapped rows: values and gradients of plain indexing, without its dense zeros.

Covers every combination of losses on the two outputs, empty and unordered rows,
expanded gradients, half precision and how many [T, V] tensors a backward pass makes.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from areal_cppo.core import tap_rows


def draw(dtype=torch.float64):
    """Logits [T = 7, V = 5] and three of their rows, out of order."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.tensor([5, 0, 3])


def policy(logits):
    """Stands for the policy loss: every row, each by another weight."""
    weights = torch.arange(1, len(logits) + 1, dtype=logits.dtype)
    return (torch.logsumexp(logits, -1) * weights).sum()


def contrast(picked):
    """Stands for CPL: the rows only."""
    return (picked.square() * torch.linspace(-1, 1, picked.shape[1])).sum()


def test_values_are_the_logits_themselves_and_their_rows():
    logits, rows = draw()
    same, picked = tap_rows(logits, rows)
    assert same.data_ptr() == logits.data_ptr() and torch.equal(same, logits)
    assert torch.equal(picked, logits[rows])
    assert picked.data_ptr() != logits.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[5, 0, 3], [6], list(range(7)), []])
@pytest.mark.parametrize("used", ["both", "logits", "picked"])
def test_gradient_equals_that_of_plain_indexing(used, rows, dtype):
    rows = torch.tensor(rows, dtype=torch.long)
    grads = []
    for tap in (tap_rows, lambda logits, rows: (logits * 1, logits[rows])):
        logits, _ = draw(dtype)
        same, picked = tap(logits, rows)
        loss = {
            "both": lambda: policy(same) + contrast(picked),
            "logits": lambda: policy(same),
            "picked": lambda: contrast(picked),
        }[used]()
        loss.backward()
        grads.append(logits.grad)
    assert grads[0].dtype == dtype
    assert torch.equal(*grads)


def test_rows_get_the_sum_and_others_the_policys_gradient_by_hand():
    logits = torch.zeros(3, 2, requires_grad=True)
    same, picked = tap_rows(logits, torch.tensor([1]))
    (2 * same.sum() + 3 * picked.sum()).backward()
    assert logits.grad.tolist() == [[2.0, 2.0], [5.0, 5.0], [2.0, 2.0]]


def test_the_incoming_gradient_is_left_alone():
    """It may be expanded, and autograd may have handed it to others."""
    logits, rows = draw()
    same, picked = tap_rows(logits, rows)
    given = torch.ones((), dtype=torch.float64).expand(7, 5)
    contiguous = torch.ones(7, 5, dtype=torch.float64)
    for incoming in (given, contiguous):
        logits.grad = None
        torch.autograd.backward(
            [same, picked], [incoming, torch.ones_like(picked)], retain_graph=True
        )
        assert (incoming == 1).all()
        expected = torch.ones(7, 5, dtype=torch.float64)
        expected[rows] += 1
        assert torch.equal(logits.grad, expected)


class DenseCounter(TorchDispatchMode):
    """Collects the storages of the [T, V] tensors that are made."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.made = shape, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = [x.data_ptr() for x in args if isinstance(x, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.shape == self.shape:
            if out.data_ptr() not in known:
                self.made.append(out)  # kept alive: no address comes twice
        return out


def dense_tensors(tap, *, policy_loss=True, picked_loss=True):
    """How many new [T, V] the tap's own backward pass makes."""
    logits, rows = draw()
    inputs = logits * 1  # no leaf: whose .grad would be a tensor of its own
    same, picked = tap(inputs, rows)
    outputs, incoming = [], []
    for output, used in ((same, policy_loss), (picked, picked_loss)):
        if used:
            outputs.append(output)
            incoming.append(torch.ones_like(output))
    with DenseCounter(inputs.shape) as counter:
        torch.autograd.grad(outputs, inputs, incoming)
    return len(counter.made)


def test_backward_makes_one_dense_tensor_where_indexing_makes_more():
    assert dense_tensors(tap_rows) == 1
    assert dense_tensors(lambda logits, rows: (logits.view(7, 5), logits[rows])) > 1
    assert dense_tensors(tap_rows, picked_loss=False) == 0
    assert dense_tensors(tap_rows, policy_loss=False) == 1


def test_rows_without_gradient():
    logits, rows = draw()
    same, picked = tap_rows(logits.detach(), rows)
    assert not same.requires_grad and not picked.requires_grad
    same, picked = tap_rows(logits, rows)
    policy(same + 0 * picked.detach().sum()).backward()
    assert (logits.grad != 0).all()


@pytest.mark.parametrize(
    ("logits", "rows", "message"),
    [
        (torch.zeros(3), torch.tensor([0]), "logits: expected shape .T, V., found .3."),
        (torch.zeros(3, 2), torch.tensor([[0]]), "rows: expected an int64 tensor"),
        (torch.zeros(3, 2), torch.ones(3, dtype=torch.bool), "found torch.bool"),
    ],
)
def test_refusals(logits, rows, message):
    with pytest.raises(ValueError, match=message):
        tap_rows(logits, rows)
