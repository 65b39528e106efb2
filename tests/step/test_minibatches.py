"""Mini-batches of whole groups: how they are dealt out; each is a step of AReaL's.

`python -m tests.step.test_minibatches` prints what they save, as docs/performance.md
has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import (
    DEFAULT_MAX_TOKENS_PER_MB,
    allocate_balanced_mbs,
    concat_padded_tensors,
)
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.report.table import table
from areal_cppo.step.batch import PromptGroup
from areal_cppo.step.minibatches import minibatches
from tests.step import harness


@dataclass
class FewestElsewhere:
    """Ranks, of which another has so many responses."""

    responses: int

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(min=-self.responses)


def made(prompt: int, lengths: list[int], first: int) -> dict[str, Any]:
    """A group after `compute_advantages`, its responses numbered from `first`."""
    width = prompt + max(lengths)
    at = torch.arange(width)
    ends = prompt + torch.tensor(lengths)[:, None]
    rewards = torch.arange(first, first + len(lengths))
    return {
        "attention_mask": at < ends,
        "loss_mask": ((at >= prompt - 1) & (at < ends - 1)).float(),
        "rewards": rewards,
        "multi_modal_input": [{"of": int(i)} for i in rewards],
    }


def numbers(groups: list[dict[str, Any]]) -> list[int]:
    return [i for group in groups for i in group["rewards"].tolist()]


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
GROUPS = st.lists(st.tuples(st.integers(1, 60), LENGTHS), min_size=1, max_size=10)


@given(GROUPS, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_how_groups_are_dealt_out(sizes, wanted, elsewhere, shared):
    groups, first = [], 0
    for prompt, lengths in sizes:
        groups.append(made(prompt, lengths, first))
        first += len(lengths)
    ranks = FewestElsewhere(elsewhere)
    dealt = minibatches(groups, wanted, ranks, share_prompts=shared)
    # As many on every rank, and none is empty.
    assert len(dealt) == (1 if wanted == 1 else min(wanted, first, elsewhere))
    # Each response once, with what belongs to it.
    assert sorted(i for some in dealt for i in numbers(some)) == list(range(first))
    tokens = {}  # of each part
    for part in (part for some in dealt for part in some):
        of = [item["of"] for item in part["multi_modal_input"]]
        assert of == part["rewards"].tolist()
        own = part["loss_mask"].sum(-1)
        prompts = part["attention_mask"].sum(-1) - own
        prompt = prompts.max() if shared else prompts.sum()
        tokens[of[0]] = int(prompt + own.sum())
    # Whole groups; cut only as often as it takes.
    assert len(tokens) == max(len(groups), len(dealt))
    # Balanced, the largest first.
    counts = [len(some) for some in dealt]
    totals = [sum(tokens[numbers([part])[0]] for part in some) for some in dealt]
    assert max(counts) - min(counts) <= 1
    assert max(totals) - min(totals) <= max(tokens.values())
    assert totals == sorted(totals, reverse=True)


def test_a_group_is_cut_into_parts_of_equal_length():
    (one,) = [made(50, [10, 20, 30, 40], 0)]
    dealt = minibatches([one], 2, FewestElsewhere(99), share_prompts=True)
    assert sorted(sorted(numbers(some)) for some in dealt) == [[0, 3], [1, 2]]


@pytest.fixture
def items(actor):
    """Five groups of uneven size, an item a group."""
    parts = [4, 3, 2, 1, 2]
    responses = iter(harness.prepared(actor, harness.grouped_batch()))
    return [concat_padded_tensors([next(responses) for _ in range(n)]) for n in parts]


def update(actor, items: list[dict[str, Any]], count: int) -> list[torch.Tensor]:
    """Gradients of the optimiser steps."""
    actor.config.ppo_n_minibatches = count
    try:
        whole, _ = harness.update_gradient(actor, items)
        assert actor.config.ppo_n_minibatches == count
    finally:
        actor.config.ppo_n_minibatches = 1
    size = sum(parameter.numel() for parameter in actor.model.parameters())
    return list(whole.split(size))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_each_is_an_update_of_its_groups_alone(actor, items, count, monkeypatch):
    """Weights of the loss included: those of AReaL's update of the same responses; with
    whole and with cut groups."""
    ranks = actor._ranks
    dealt = minibatches(items, count, ranks, share_prompts=True)
    gradients = update(actor, items, count)
    assert len(gradients) == len(dealt) == count
    for gradient, groups in zip(gradients, dealt, strict=True):
        (alone,) = update(actor, groups, 1)
        assert harness.relative_difference(gradient, alone) < 1e-5


def test_it_does_not_matter_how_groups_are_ordered_or_packed(actor, items):
    expected = update(actor, items, 2)
    actor.config.mb_spec = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60)
    for got, gradient in zip(update(actor, items[::-1], 2), expected, strict=True):
        assert harness.relative_difference(got, gradient) < 1e-5


def test_statistics_are_those_of_the_whole_update(actor, items):
    """Counts add up, means are over all responses."""
    _, expected = harness.update_gradient(actor, items)
    actor.config.ppo_n_minibatches = 2
    try:
        _, stats = harness.update_gradient(actor, items)
    finally:
        actor.config.ppo_n_minibatches = 1
    same = ("n_seqs", "n_valid_tokens", "task_reward/avg", "advantages/avg")
    same += ("update/n_valid_tokens", "update/new_logp/avg", "update/entropy/avg")
    for key in (f"ppo_actor/{name}" for name in same):
        assert stats[key] == pytest.approx(expected[key], rel=1e-5), key


# Of a rank: problems, responses of each, tokens of a response at most, mini-batches,
# tokens of a micro-batch at most.
RANKS = {
    "ViRL39K, 3B": (32, 8, 2048, 2, 16_384),
    "ViRL39K, 7B, 8 nodes": (8, 8, 2048, 2, 24_576),
    "published": (128, 5, 4096, 8, 8_192),
}


def counted(divided: list[list[tuple[int, list[int]]]], capacity: int) -> list[int]:
    """Tokens of a forward pass over mini-batches of (prompt, its responses' lengths),
    and images encoded."""
    parts = []
    for minibatch in divided:
        for prompt, own in minibatch:
            lengths = [prompt + length for length in own]
            group = PromptGroup(tuple(range(len(own))), prompt * (len(own) > 1))
            parts += [part.tokens(lengths) for part in group.cut(lengths, capacity)]
    return [sum(parts), len(parts)]


def counts(name: str) -> dict[str, list[int]]:
    """By AReaL's division, in whole groups, and if every prompt were computed once."""
    problems, responses, longest, count, capacity = RANKS[name]
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(256, 1281, (problems,), generator=draw) + 150
    normal = torch.randn(problems, responses, generator=draw)
    lengths = (700 * (0.6 * normal).exp()).clamp(max=longest).long()
    of = list(zip(prompts.tolist(), lengths.tolist(), strict=True))
    flat = [(prompt, n) for prompt, own in of for n in own]
    spec = MicroBatchSpec(n_mbs=count, max_tokens_per_mb=DEFAULT_MAX_TOKENS_PER_MB)
    torn = []
    for members in allocate_balanced_mbs(spec, [prompt + n for prompt, n in flat]):
        by_problem: dict[int, list[int]] = {}
        for i in members:
            by_problem.setdefault(i // responses, []).append(flat[i][1])
        torn.append([(prompts[p].item(), own) for p, own in by_problem.items()])
    groups = [made(prompt, own, responses * i) for i, (prompt, own) in enumerate(of)]
    dealt = minibatches(groups, count, FewestElsewhere(10**9), share_prompts=True)
    whole = [[of[int(part["rewards"][0]) // responses] for part in m] for m in dealt]
    return {
        "AReaL's": counted(torn, capacity),
        "whole groups": counted(whole, capacity),
        "each prompt once": counted([of], 10**9),
    }


@pytest.mark.parametrize("name", RANKS)
def test_a_recipes_prompts_are_computed_once(name):
    tokens, images = zip(*counts(name).values(), strict=True)
    assert tokens[1] <= 1.01 * tokens[2]
    assert tokens[0] > 1.05 * tokens[2] and images[0] > 1.5 * images[2]


if __name__ == "__main__":
    rows = [
        (name, kind, f"{tokens:,}", images)
        for name in RANKS
        for kind, (tokens, images) in counts(name).items()
    ]
    print(table(("recipe", "mini-batches", "tokens", "images"), rows, words=2))
