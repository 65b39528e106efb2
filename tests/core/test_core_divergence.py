"""Divergences of a view from the anchor: values and gradients.

Covers kl and k1-k3 against closed forms, a Python loop and automatic differentiation
in double precision, and what is kept for the backward pass. Equal and extreme logits
are in test_core_divergence_extremes.py, peak memory in test_core_memory.py. Does not
cover sharded vocabularies (there are none in the core).
"""

import math

import pytest
import torch

from areal_cppo.core import divergence as module
from areal_cppo.core import token_divergence

KINDS = ["kl", "k1", "k2", "k3"]


def draw(rows=47, words=31, seed=0, scale=3.0):
    """Two sets of logits and labels."""
    generator = torch.Generator().manual_seed(seed)
    anchor = torch.randn(rows, words, generator=generator) * scale
    view = torch.randn(rows, words, generator=generator) * scale
    return anchor, view, torch.randint(words, (rows,), generator=generator)


def naive(anchor, view, label, kind, temperature):
    """Reference for one token: lists, Python floats."""
    logs = []
    for row in (anchor, view):
        total = math.log(sum(math.exp(z / temperature) for z in row))
        logs.append([z / temperature - total for z in row])
    if kind == "kl":
        return sum(math.exp(p) * (p - q) for p, q in zip(*logs))
    r = logs[0][label] - logs[1][label]
    return {"k1": r, "k2": r * r / 2, "k3": math.exp(-r) - 1 + r}[kind]


def reference(anchor, view, labels, kind, temperature):
    """Reference by automatic differentiation in the inputs' own precision."""
    log_p = torch.log_softmax(anchor / temperature, -1)
    log_q = torch.log_softmax(view / temperature, -1)
    if kind == "kl":
        return torch.nn.functional.kl_div(
            log_q, log_p, reduction="none", log_target=True
        ).sum(-1)
    r = (log_p - log_q)[torch.arange(len(labels)), labels]
    return {"k1": r, "k2": r**2 / 2, "k3": torch.exp(-r) - 1 + r}[kind]


def test_worked_example():
    # p = (3/4, 1/4), q = (1/2, 1/2), the label is the first word.
    anchor = torch.tensor([[math.log(3.0), 0.0]])
    view = torch.zeros(1, 2)
    label = torch.tensor([0])
    r = math.log(1.5)
    expected = {
        "kl": 0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        "k1": r,
        "k2": r * r / 2,
        "k3": 1 / 1.5 - 1 + r,
    }
    for kind in KINDS:
        value = token_divergence(anchor, view, label, kind).item()
        assert value == pytest.approx(expected[kind], rel=1e-5), kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-5), (torch.bfloat16, 2e-5), (torch.float16, 2e-5)],
)
def test_values_equal_the_naive_loop(kind, temperature, dtype, tolerance):
    """The reduction is in fp32, so half precision costs nothing beyond its inputs."""
    anchor, view, labels = draw(rows=7, scale=1.5)
    anchor, view = anchor.to(dtype), view.to(dtype)
    values = token_divergence(anchor, view, labels, kind, temperature)
    assert values.dtype == torch.float32
    for i, value in enumerate(values.tolist()):
        expected = naive(
            anchor[i].double().tolist(),
            view[i].double().tolist(),
            int(labels[i]),
            kind,
            temperature,
        )
        assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_automatic_differentiation(kind, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 5)  # several chunks, the last one short
    anchor, view, labels = draw(scale=1.0)
    weights = torch.linspace(-1, 2, len(labels))
    grads = []
    for function, dtype in (
        (token_divergence, torch.float32),
        (reference, torch.float64),
    ):
        inputs = [x.clone().to(dtype).requires_grad_() for x in (anchor, view)]
        value = function(*inputs, labels, kind, 0.7)
        (value * weights).sum().backward()
        grads.append([x.grad for x in inputs])
    for mine, expected in zip(*grads):
        torch.testing.assert_close(mine, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_chunks_change_neither_value_nor_gradient(kind, chunk, monkeypatch):
    anchor, view, labels = draw(rows=13)
    results = []
    for size in (13, chunk):
        monkeypatch.setattr(module, "_CHUNK", size)
        inputs = [x.clone().requires_grad_() for x in (anchor, view)]
        value = token_divergence(*inputs, labels, kind)
        (value * torch.arange(13)).sum().backward()
        results.append([value.detach(), *(x.grad for x in inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_chunk_is_in_fp32_and_only_the_inputs_are_kept(kind, monkeypatch):
    """The scale promise: no [N, V] beyond the logits and their gradients."""
    monkeypatch.setattr(module, "_CHUNK", 4)
    reduced, kept = [], []
    log_probs = module.log_probs
    monkeypatch.setattr(
        module, "log_probs", lambda x, t: reduced.append(len(x)) or log_probs(x, t)
    )
    anchor, view, labels = draw(rows=13)
    anchor, view = (x.bfloat16().requires_grad_() for x in (anchor, view))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x) or x, lambda x: x
    ):
        value = token_divergence(anchor, view, labels, kind)
    value.sum().backward()
    assert max(reduced) <= 4 and len(reduced) == 2 * 2 * 4  # branches, passes, chunks
    wide = [x.data_ptr() for x in kept if x.numel() > 2 * len(labels)]
    assert sorted(wide) == sorted([anchor.data_ptr(), view.data_ptr()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branch", ["anchor", "view"])
def test_detached_branch_gets_no_gradient_and_the_other_the_same(kind, branch):
    anchor, view, labels = draw(rows=3)
    both = [anchor.clone().requires_grad_(), view.clone().requires_grad_()]
    token_divergence(*both, labels, kind).sum().backward()
    index = 0 if branch == "anchor" else 1
    one = [x.clone().requires_grad_() for x in (anchor, view)]
    passed = list(one)
    passed[1 - index] = one[1 - index].detach()
    token_divergence(*passed, labels, kind).sum().backward()
    assert one[1 - index].grad is None
    assert both[index].grad.abs().max() > 0 and both[1 - index].grad.abs().max() > 0
    torch.testing.assert_close(one[index].grad, both[index].grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_has_the_input_dtype(dtype):
    anchor, view, labels = draw(rows=3)
    anchor, view = (x.to(dtype).requires_grad_() for x in (anchor, view))
    for kind in KINDS:
        anchor.grad = view.grad = None
        token_divergence(anchor, view, labels, kind).sum().backward()
        assert anchor.grad.dtype == view.grad.dtype == dtype


def test_k1_difference_cancels_the_anchor_and_kl_does_not():
    """Defect 1 of the published fork: with k1 the anchor gets no gradient at all."""
    anchor, view, labels = draw(rows=5)
    other = view.flip(0)
    for kind, cancels in (("k1", True), ("kl", False)):
        inputs = anchor.clone().requires_grad_()
        difference = token_divergence(inputs, view, labels, kind) - token_divergence(
            inputs, other, labels, kind
        )
        difference.sum().backward()
        assert (inputs.grad.abs().max() < 1e-6) == cancels


@pytest.mark.parametrize("kind", KINDS)
def test_empty_selection_is_connected(kind):
    anchor = torch.zeros(0, 5, requires_grad=True)
    value = token_divergence(anchor, anchor, torch.zeros(0, dtype=torch.long), kind)
    assert value.shape == (0,) and value.requires_grad
    value.sum().backward()
    assert anchor.grad.shape == (0, 5) and anchor.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "k4"}, "kind: expected one of kl, k1, k2, k3, found 'k4'"),
        ({"view_logits": torch.zeros(3, 5)}, "view_logits: expected shape"),
        ({"labels": torch.zeros(2, dtype=torch.long)}, "labels: expected shape"),
        ({"temperature": 0.0}, "temperature: expected a number > 0"),
        ({"temperature": -1.0, "kind": "k1"}, "temperature: expected a number > 0"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "anchor_logits": torch.zeros(3, 4),
        "view_logits": torch.zeros(3, 4),
        "labels": torch.zeros(3, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        token_divergence(**(arguments | change))
