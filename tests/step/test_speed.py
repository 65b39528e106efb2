"""What makes a step cheap changes neither loss nor gradient, and does save its work.

Covers `actor.speed` through the real actor on one rank: each switch alone and all
together, against each other and the naive reference, and what they save, counted at the
model's layers. Ranks are in test_actor_distributed.py, model families in
test_actor_families.py, attention and rows by themselves in test_attention.py and
test_rows.py.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.operation import SpeedConfig
from areal_cppo.core import StalenessConfig, ViewsConfig
from tests.step import harness, naive

SWITCHES = [item.name for item in fields(SpeedConfig)]
PACKING = ["share_prompts", "share_images", "gate_first"]
BY_TOKENS = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=70)
CPL = "ppo_actor/update/cpl"


@pytest.fixture(autouse=True)
def as_before(actor):
    yield
    set_speed(actor)


def set_speed(actor, **off) -> None:
    for name in SWITCHES:
        setattr(actor.config.speed, name, off.get(name, True))


def off(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, False)


@contextmanager
def counted(actor):
    """Tokens through the language model and patches through the vision tower."""
    count = {"tokens": [], "patches": []}
    inner = actor.model.model
    handles = [
        inner.language_model.layers[0].input_layernorm.register_forward_pre_hook(
            lambda _, args: count["tokens"].append(args[0].shape[1])
        ),
        inner.visual.patch_embed.register_forward_pre_hook(
            lambda _, args: count["patches"].append(len(args[0]))
        ),
    ]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def update(actor, items, **off):
    set_speed(actor, **off)
    gradient, stats = harness.update_gradient(actor, items)
    return gradient, {
        key: stats[f"ppo_actor/update/{key}"]
        for key in (
            "cpl/loss",
            "cpl/entropy_gain",
            "cpl/gated_responses",
            "cpl/perception_tokens",
            "cpl/view_sequences",
            "actor_loss/avg",
            "entropy/avg",
            "new_logp/avg",
            "vocab_max_logits/avg",
        )
    }


@pytest.fixture(scope="module")
def reference(model_folder):
    """Loss and gradient of the batch from the formulas, by objective; made once."""
    made = {}

    def of(items, objective):
        if objective not in made:
            model = naive.load(model_folder)
            cpl, counts = naive.cpl(model, items)
            assert len(counts) == 6
            parts = {"cpl": [cpl], "grpo": [naive.policy(model, items)]}
            parts["cppo"] = parts["cpl"] + parts["grpo"]
            made[objective] = naive.gradient(model, sum(parts[objective]))
        return made[objective]

    return of


@pytest.mark.parametrize("spec", [MicroBatchSpec(n_mbs=1), BY_TOKENS])
@pytest.mark.parametrize("objective", ["cppo", "cpl", "grpo"])
@pytest.mark.parametrize(
    "switched_off",
    [*((name,) for name in SWITCHES), ("share_prompts", "share_images"), SWITCHES, ()],
    ids=",".join,
)
def test_gradient_equals_naive(actor, reference, switched_off, objective, spec):
    items = harness.prepared(actor, harness.grouped_batch())
    actor.config.objective, actor.config.mb_spec = objective, spec
    set_speed(actor, **off(*switched_off))
    gradient, _ = harness.update_gradient(actor, items)
    expected = reference(items, objective)
    assert expected.norm() > 0.05
    assert harness.relative_difference(gradient, expected) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "token"},
        {"selection": "random"},
        {"gate": "none", "selection": "all", "divergence": "k3"},
        {"grad": ["anchor"]},
        {"grad": ["positive"]},
        {"grad": ["negative"], "aggregation": "token"},
    ],
    ids=str,
)
def test_all_combinations_agree(actor, configure, options):
    """Gradient and metrics, of every combination of switches that changes rows."""
    configure(**options)
    items = harness.prepared(actor, harness.grouped_batch())
    gradient, stats = update(actor, items)
    for names in itertools.chain.from_iterable(
        itertools.combinations([*PACKING, "response_logits"], n) for n in range(1, 5)
    ):
        other, other_stats = update(actor, items, **off(*names))
        assert harness.relative_difference(other, gradient) < 1e-5, names
        assert other_stats == pytest.approx(stats, rel=1e-5), names


@pytest.mark.parametrize("shared", [True, False])
def test_logprobs_equal_plain_transformers(actor, model_folder, shared):
    items = harness.grouped_batch()
    set_speed(actor, share_prompts=shared)
    actor.config.mb_spec = BY_TOKENS
    together = actor.compute_logp([dict(item) for item in items])
    model = naive.load(model_folder)
    for item, logprobs in zip(items, together, strict=True):
        n = naive.n_response(item)
        with torch.no_grad():
            expected = naive.logprobs(model, item)
        torch.testing.assert_close(
            logprobs[0, -n - 1 : -1], expected, rtol=0, atol=1e-5
        )
        assert (logprobs[0, : -n - 1] == 0).all() and logprobs[0, -1] == 0


def test_a_group_in_one_item_is_as_good(actor):
    """As the workflow returns it: responses padded to one length, one under another."""
    items = harness.prepared(actor, harness.grouped_batch())
    alone, stats = update(actor, items)
    together, group_stats = update(actor, harness.in_groups(items))
    assert harness.relative_difference(together, alone) < 1e-5
    assert group_stats == pytest.approx(stats, rel=1e-5)


# Tokens of the prompts: an image of 4 x 4 patches has 4, and two marks; the text-only
# group keeps the marks.
FIRST, SECOND, OTHER = (4 + 2) + 5, (2 + 2) + (3 + 2) + 5, (4 + 2) + 3
ALONE, TEXT = (6 + 2) + 3, 2 + 5
RESPONSES = (12 + 5 + 20 + 9) + (3 + 8 + 2) + (7 + 11) + 13 + (6 + 4)
ROW = FIRST + SECOND + OTHER + ALONE + TEXT + RESPONSES
ROW_UNSHARED = 4 * FIRST + 3 * SECOND + 2 * OTHER + ALONE + 2 * TEXT + RESPONSES
# Two of the first group enter the views, one of the second, both others, and the one.
VIEW = FIRST + SECOND + OTHER + ALONE + (12 + 20) + 8 + (7 + 11) + 13
VIEW_UNSHARED = VIEW + FIRST + OTHER
# Patches: the first and the other group have the same image.
SIXTEEN, TWO, BIG = 16, 8 + 12, 24


@pytest.mark.parametrize(
    ("switched_off", "tokens", "patches"),
    [
        ((), [VIEW, VIEW, ROW], [SIXTEEN + TWO + BIG] * 3),
        (
            ("share_images",),
            [VIEW, VIEW, ROW],
            [2 * SIXTEEN + TWO + BIG] * 3,
        ),
        (
            ("share_prompts",),
            [VIEW_UNSHARED, VIEW_UNSHARED],
            [SIXTEEN + TWO + BIG] * 2,
        ),
        (
            ("share_prompts", "share_images"),
            [VIEW_UNSHARED, VIEW_UNSHARED],
            [4 * SIXTEEN + TWO + BIG] * 2,
        ),
    ],
    ids=lambda value: ",".join(map(str, value)),
)
def test_what_is_computed(actor, switched_off, tokens, patches):
    """Of the first micro-batch, which has the views: negative, positive, anchor."""
    items = harness.prepared(actor, harness.grouped_batch())
    set_speed(actor, **off(*switched_off))
    with counted(actor) as count:
        harness.update_gradient(actor, items)
    shared = "share_prompts" not in switched_off
    if shared:  # the text-only group is in a micro-batch of its own, with a tiny image
        text = TEXT + 6 + 4
        tokens = [*tokens[:2], tokens[2] - text, text + 1]
        patches = [*patches, 4]
    assert count["tokens"][: len(tokens)] == tokens
    assert count["patches"][: len(patches)] == patches
    if not shared:  # gated and other responses are packed apart
        assert sum(count["tokens"][2:]) == ROW_UNSHARED


def test_logits_of_response_tokens_only(actor, monkeypatch):
    items = harness.prepared(actor, harness.grouped_batch())
    rows = []
    tap = actor._model
    project = tap._project

    def counting(hidden):
        rows.append(len(hidden))
        return project(hidden)

    monkeypatch.setattr(tap, "_project", counting)
    actor.config.objective = "grpo"
    forward_only = [dict(item) for item in harness.grouped_batch()]
    actor.compute_logp(forward_only)
    assert sum(rows) == RESPONSES
    rows.clear()
    set_speed(actor, response_logits=False)
    actor.compute_logp(forward_only)
    # All places of the row; the shared last token of a prompt once per response.
    assert sum(rows) > ROW
    rows.clear()
    set_speed(actor)
    actor.config.objective = "cppo"
    _, stats = harness.update_gradient(actor, items)
    gated, selected = (
        int(stats[f"{CPL}/{name}_tokens"]) for name in ("gated", "perception")
    )
    # Twice: on the way forward and once more on the way back, but for the scores.
    assert sum(rows) == 2 * RESPONSES + 2 * gated + 2 * 3 * selected


def test_without_the_gate_first_all_with_an_image_enter(actor):
    items = harness.prepared(actor, harness.grouped_batch())
    set_speed(actor, **off("gate_first"))
    with counted(actor) as count:
        _, stats = harness.update_gradient(actor, items)
    images = ROW - TEXT - (6 + 4)
    assert count["tokens"][:3] == [images] * 3
    assert stats[f"{CPL}/gated_responses"] == 6
    assert stats[f"{CPL}/negative_views"] == 7  # of gated responses; one has two


def test_unchanged_negatives_never_count_whoever_enters(actor, configure):
    """Without the gate first their responses enter the passes all the same."""
    half = {"name": "blank", "probability": 0.5}
    configure(views=ViewsConfig(negative=[half]), selection="all")
    actor.config.objective = "cpl"
    items = harness.prepared(actor, harness.grouped_batch())
    actor.set_version(3)
    first, stats = harness.update_gradient(actor, items)
    assert 0 < stats[f"{CPL}/unchanged_responses"] < 6
    set_speed(actor, **off("gate_first"))
    later, later_stats = harness.update_gradient(actor, items)
    assert first.norm() > 0.01
    assert harness.relative_difference(later, first) < 1e-5
    for name in ("unchanged_responses", "gated_responses", "perception_tokens", "loss"):
        assert later_stats[f"{CPL}/{name}"] == pytest.approx(stats[f"{CPL}/{name}"])


def test_nothing_gated_costs_nothing(actor):
    losers = harness.group(1, [5, 9, 4], [-1.0] * 3, (4, 4))
    items = harness.prepared(actor, losers)
    tokens = {}
    for objective in ("grpo", "cppo"):
        actor.config.objective = objective
        with counted(actor) as count:
            harness.update_gradient(actor, items)
        tokens[objective] = count
    assert tokens["cppo"] == tokens["grpo"]


class TestProximal:
    """The proximal log-probs from the update's own forward pass."""

    def test_update_equals_one_with_a_pass_before(self, actor):
        items = harness.prepared(actor, harness.grouped_batch())
        before, before_stats = update(actor, items)
        without = [
            {key: value for key, value in item.items() if key != "prox_logp"}
            for item in items
        ]
        own, stats = update(actor, without)
        assert harness.relative_difference(own, before) < 1e-5
        assert stats == pytest.approx(before_stats, rel=1e-4)

    def test_stale_tokens_weigh_the_same(self, actor, configure):
        configure(staleness=StalenessConfig(importance_cap=2.0, decay=0.9))
        items = harness.prepared(actor, harness.grouped_batch())
        actor.config.objective = "cpl"
        before, stats = harness.update_gradient(actor, items)
        assert stats[f"{CPL}/staleness_weight"] != pytest.approx(1.0, abs=0.05)
        for item in items:
            del item["prox_logp"]
        own, _ = harness.update_gradient(actor, items)
        assert harness.relative_difference(own, before) < 1e-5

    @pytest.mark.parametrize(
        ("change", "reuses"),
        [
            ({}, True),
            ({"speed": SpeedConfig(reuse_proximal=False)}, False),
            ({"ppo_n_minibatches": 4}, False),
            ({"use_decoupled_loss": False}, False),
            ({"prox_logp_method": "loglinear"}, False),
            ({"prox_logp_method": "metrics"}, False),
        ],
        ids=str,
    )
    def test_only_where_it_is_the_same(self, tmp_path, change, reuses):
        config: CPPOActorConfig = harness.actor_config(tmp_path, **change)
        assert config.reuses_proximal == reuses
        method = change.get("prox_logp_method")
        assert config.should_compute_prox_logp() == (
            not reuses and method != "loglinear"
        )


def test_half_precision(model_folder, actor):
    """In bf16 sharing prompts is as near to fp32 as not sharing them."""
    half = harness.make_actor(harness.actor_config(model_folder, dtype="bfloat16"))
    items = harness.prepared(actor, harness.grouped_batch())
    exact, _ = harness.update_gradient(actor, items)
    errors = {}
    for shared in (True, False):
        set_speed(half, share_prompts=shared)
        gradient, _ = harness.update_gradient(half, items)
        errors[shared] = harness.relative_difference(gradient, exact)
    assert errors[True] < 1.2 * errors[False]
