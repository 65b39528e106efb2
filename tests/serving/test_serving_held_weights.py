"""What a model holds against what was sent, by loaders as SGLang's models have them.

With SGLang's own loader: tests/test_demo.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.serving.held_weights import (
    CannotCompare,
    CopyComparer,
    difference,
    recording,
)

HIDDEN, HEADS, PADDED, WORDS = 4, 2, 8, 6


class Model(torch.nn.Module):
    """Fused q, k, v; a padded vocabulary, tied to the head; this rank's half of a
    split matrix; a buffer that no file holds."""

    def __init__(self, rank: int = 0, dtype=torch.float32):
        super().__init__()
        empty = {"dtype": dtype}
        self.rank = rank
        self.qkv = torch.nn.Parameter(torch.empty(3 * HEADS, HIDDEN, **empty))
        self.embedding = torch.nn.Parameter(torch.empty(PADDED, HIDDEN, **empty))
        self.head = self.embedding
        self.split = torch.nn.Parameter(torch.empty(HIDDEN // 2, HIDDEN, **empty))
        self.norm = torch.nn.Parameter(torch.empty(HIDDEN, **empty))
        self.register_buffer("positions", torch.arange(5))

    def load_weights(self, weights) -> None:
        for name, tensor in weights:
            if name in "qkv":
                place = "qkv".index(name) * HEADS
                self.qkv.data.narrow(0, place, HEADS).copy_(tensor)
            elif name == "embedding":
                for parameter in (self.embedding, self.head):
                    parameter[: len(tensor)].data.copy_(tensor)
                    parameter[len(tensor) :].data.fill_(0)
            elif name == "split":
                size = HIDDEN // 2
                self.split.data.copy_(tensor.narrow(0, self.rank * size, size))
            elif name == "norm":
                self.norm.data.copy_(tensor)


def make_files(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        **{name: random(HEADS, HIDDEN) for name in "qkv"},
        "embedding": random(WORDS, HIDDEN),
        "split": random(HIDDEN, HIDDEN),
        "norm": random(HIDDEN),
    }


def loaded(files, **how) -> Model:
    model = Model(**how)
    with torch.no_grad():
        model.load_weights(iter(files.items()))
    return model


def different(model: Model, files) -> list[str]:
    """Names of the parameters that differ; all has to be compared."""
    with torch.no_grad(), CopyComparer(model.named_parameters()) as comparer:
        model.load_weights(iter(files.items()))
    assert comparer.missing() == []
    return comparer.different


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_weights_are_equal(rank, dtype):
    files = make_files()
    model = loaded(files, rank=rank, dtype=dtype)
    assert different(model, files) == []


@given(name=st.sampled_from(sorted(make_files())), place=st.integers(0, 1000))
def test_one_changed_element_is_noticed_and_nothing_is_written(name, place):
    files = make_files()
    model = loaded(files)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    changed = {key: value.clone() for key, value in files.items()}
    flat = changed[name].view(-1)
    place %= flat.numel() // 2 if name == "split" else flat.numel()  # of rank 0
    flat[place] = torch.nextafter(flat[place], torch.tensor(math.inf))
    owner = "qkv" if name in "qkv" else name
    assert different(model, changed) == [owner]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert different(model, files) == []


def test_a_change_of_the_server_is_noticed():
    files = make_files()
    model = loaded(files)
    with torch.no_grad():
        model.embedding[PADDED - 1, 0] = 1.0  # where files have nothing but padding
    assert different(model, files) == ["embedding"]


def test_a_mixture_of_two_versions_is_neither():
    old, new = make_files(0), make_files(1)
    model = loaded({**old, "k": new["k"]})
    for files in (old, new):
        assert "qkv" in different(model, files)


def test_nan_equals_nan():
    files = make_files()
    files["norm"][0] = math.nan
    assert different(loaded(files), files) == []


def test_a_loader_that_does_something_else_is_refused():
    class Odd(Model):
        def load_weights(self, weights):
            for _, tensor in weights:
                self.norm.data.add_(tensor)

    model = Odd()
    with torch.no_grad():
        model.norm.fill_(1.0)
    with pytest.raises(CannotCompare, match="norm is loaded by aten.add_"):
        different(model, {"norm": torch.ones(HIDDEN)})
    assert torch.equal(model.norm.data, torch.ones(HIDDEN))


class Runner:
    """In place of SGLang's `ModelRunner`: loads what it is given, part by part."""

    def __init__(self, model):
        self.model = model

    @recording
    def update_weights_from_distributed(self, names, files):
        self.model.load_weights([(name, files[name]) for name in names])
        return True, ""


def parts(order, cuts):
    bounds = sorted({0, len(order), *(cut % len(order) for cut in cuts)})
    return [order[a:b] for a, b in zip(bounds, bounds[1:])]


@given(
    order=st.permutations(sorted(make_files())),
    cuts=st.lists(st.integers(0, 5)),
    left_out=st.sets(st.sampled_from(sorted(make_files())), max_size=2),
)
def test_an_update_over_the_wire_is_whole_or_says_what_is_missing(
    order, cuts, left_out
):
    """In whatever parts, of whatever order; and the next update begins anew."""
    runner = Runner(loaded(make_files(0)))
    new = make_files(1)
    for names in parts(order, cuts):
        runner.update_weights_from_distributed(
            [name for name in names if name not in left_out], new
        )
    found = difference(runner)
    owners = {"qkv" if name in "qkv" else name for name in left_out}
    if not owners:
        assert found is None
        assert different(runner.model, new) == []
    else:
        assert found.startswith(f"{len(owners)} parameters have not come")
        assert all(owner in found for owner in owners)
    assert "nothing has come" in difference(runner)
    runner.update_weights_from_distributed(order, new)
    assert difference(runner) is None
    assert "load_weights" not in vars(runner.model)


def test_a_part_that_the_loader_changes_has_not_come_as_it_was_sent():
    class Rounding(Model):
        def load_weights(self, weights):
            super().load_weights(weights)
            if not any(type(m).__name__ == "CopyComparer" for m in modes()):
                self.norm.data.mul_(1.5)

    def modes():
        from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

        return _get_current_dispatch_mode_stack()

    runner, files = Runner(Rounding()), make_files()
    runner.update_weights_from_distributed(sorted(files), files)
    assert difference(runner) == "1 parameters differ, such as norm"


def test_a_loader_that_can_not_be_compared_is_told_and_has_loaded():
    class Scaling(Model):
        def load_weights(self, weights):
            super().load_weights(weights)
            self.norm.data.mul_(2)

    runner, files = Runner(Scaling()), make_files()
    runner.update_weights_from_distributed(sorted(files), files)
    assert "norm is loaded by aten.mul_" in difference(runner)
