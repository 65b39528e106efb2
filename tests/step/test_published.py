"""The published recipes: their settings load, and their loss is what the core computes.

Covers every value of `configs/triangles_published.yaml`, and value and gradient of one
single-sequence micro-batch against the published formulas, written naively in double
precision: verl's (k3, half rounded down) and the AReaL fork's (k1, half rounded up).

Not covered, because ours differs from the published verl code there: that cuts k3 off
at 10 nats, selects all tokens that tie with the last one of the quota, and takes its
mean over a whole micro-batch, so that packing decides the weights.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from areal_cppo.config.experiment import load_config
from areal_cppo.core import (
    CPLConfig,
    aggregate_token_loss,
    contrastive_perception_loss,
    entropy_gain,
    rise_eligible,
    score_tokens,
    select_perception_tokens,
    staleness_weights,
    token_divergence,
)

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = 31


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("published")
    return lambda name: load_config(CONFIGS / name, [f"run_dir='{run_dir}'"])


@pytest.fixture(scope="module")
def recipes(load) -> dict[str, CPLConfig]:
    verl = load("triangles_published.yaml").actor.cpl
    return {"verl": verl, "areal": replace(verl, divergence="k1", quota="ceil")}


def test_every_setting_is_the_published_one(load):
    config = load("triangles_published.yaml")
    assert config.actor.objective == "cppo"
    assert asdict(config.actor.cpl) == {
        "coef": 0.01,
        "tau": 0.1,
        "top_fraction": 0.5,
        "quota": "floor",
        "min_gain": 0.0,
        "divergence": "k3",
        "gate": "positive_advantage",
        "aggregation": "sequence",
        "responses": None,
        "selection": "entropy_gain",
        "grad": ["anchor", "positive", "negative"],
        "views": {
            "positive": [
                {
                    "name": "color_jitter",
                    "brightness": [0.2, 1.3],
                    "contrast": [0.2, 1.8],
                    "saturation": [0.2, 1.8],
                },
                {"name": "perspective", "distortion": 0.2, "probability": 0.5},
                {"name": "rotation", "degrees": 10.0},
            ],
            "negative": [
                {"name": "noise_patches", "count": 50, "side": [0.05, 0.15]},
                {"name": "zoom_crop", "scale": [0.6, 0.7]},
            ],
        },
        "staleness": {
            "importance_weight": False,
            "importance_cap": None,
            "decay": 1.0,
            "max_staleness": None,
        },
    }


def test_everything_else_is_the_demos(load):
    """Composed by hydra: the file holds only what differs."""
    published, demo = (
        asdict(load(name)) for name in ("triangles_published.yaml", "triangles.yaml")
    )
    assert published["trial_name"] == "cppo-published"
    for config in (published, demo):
        config["actor"].pop("cpl")
        for part in [config, *config.values()]:
            if isinstance(part, dict):
                part.pop("trial_name", None)
    assert published == demo


def draw(length: int, seed: int):
    """Logits of the three passes, [length, WORDS], and the sampled tokens."""
    generator = torch.Generator().manual_seed(seed)
    anchor = torch.randn(length, WORDS, generator=generator) * 2
    # Views near the anchor, so that r stays where k3 is an ordinary number.
    positive = anchor + 0.3 * torch.randn(length, WORDS, generator=generator)
    negative = 0.7 * anchor + 0.5 * torch.randn(length, WORDS, generator=generator)
    tokens = torch.randint(WORDS, (length,), generator=generator)
    return [anchor, positive, negative], tokens


def published(passes, tokens, advantage, rule):
    """The formula of the published code for one response; fp64, token by token."""
    anchor, positive, negative = (torch.log_softmax(x, -1) for x in passes)
    gains = {}
    for t in range(len(tokens)):
        h_anchor, h_negative = (
            -sum(p * math.log(p) for p in log_p[t].exp().tolist())
            for log_p in (anchor, negative)
        )
        if h_negative - h_anchor > 0:
            gains[t] = max(h_negative - h_anchor, 0.0) / (h_negative + 1e-6)
    ranked = sorted(gains, key=lambda t: gains[t], reverse=True)
    half = 0.5 * len(ranked)
    number = max(1, math.floor(half)) if rule == "verl" else math.ceil(half)
    selected = ranked[:number]

    def divergence(view, t):
        log_ratio = view[t, tokens[t]] - anchor[t, tokens[t]]
        if rule == "areal":
            return -log_ratio
        return torch.exp(log_ratio) - log_ratio - 1  # "low_var_kl"

    total, count = torch.zeros((), dtype=torch.float64), 0
    for t in selected:
        if advantage > 0:
            margin = divergence(positive, t) - divergence(negative, t)
            total = total + torch.log1p(torch.exp(margin / 0.1))
            count += 1
    return 0.01 * total / max(count, 1), sorted(selected)


def composed(config: CPLConfig, passes, tokens, advantage):
    """The core's functions, one after the other as the training code calls them."""
    anchor, positive, negative = passes
    length = len(tokens)
    gate = torch.full((length,), advantage > 0)
    gated = gate.nonzero().flatten()
    scores = score_tokens(anchor[gated], negative[gated])
    entropies = (scores.anchor_entropy, scores.negative_entropy)
    eligible = rise_eligible(*entropies, config.min_gain, WORDS)
    sequence = torch.zeros(length, dtype=torch.long)
    chosen = select_perception_tokens(
        entropy_gain(*entropies),
        eligible,
        sequence[gated],
        config.top_fraction,
        config.quota,
    )
    selected = gated[chosen]
    divergences = [
        token_divergence(
            anchor[selected], view[selected], tokens[selected], config.divergence
        )
        for view in (positive, negative)
    ]
    token_loss = contrastive_perception_loss(*divergences, config.tau)
    assert not config.staleness.importance_weight
    behaviour = torch.linspace(-3, 0, length)[selected]
    weights = staleness_weights(
        behaviour,
        behaviour,
        torch.arange(length)[selected],  # stale by up to `length` versions
        length,
        cap=config.staleness.importance_cap,
        decay=config.staleness.decay,
        max_staleness=config.staleness.max_staleness,
    )
    loss = aggregate_token_loss(
        token_loss * weights, sequence[selected], config.aggregation, 1
    )
    return config.coef * loss, selected.tolist()


@pytest.mark.parametrize("rule", ["verl", "areal"])
@pytest.mark.parametrize("length", [1, 2, 3, 10, 47])
@pytest.mark.parametrize("seed", range(4))
def test_a_single_sequence_equals_the_published_formula(recipes, rule, length, seed):
    logits, tokens = draw(length, seed)
    mine = [x.clone().requires_grad_() for x in logits]
    theirs = [x.double().requires_grad_() for x in logits]
    loss, selected = composed(recipes[rule], mine, tokens, advantage=0.7)
    expected, expected_selected = published(theirs, tokens, 0.7, rule)
    assert selected == expected_selected
    assert length < 10 or len(selected) > 1
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-9)
    if not selected:
        return
    loss.backward()
    expected.backward()
    for name, x, y in zip(("anchor", "positive", "negative"), mine, theirs):
        scale = float(y.grad.abs().max())
        if rule == "areal" and name == "anchor":  # k1: the anchor cancels out
            assert scale < 1e-15 and x.grad.abs().max() < 1e-7
            continue
        assert scale > 0
        torch.testing.assert_close(
            x.grad.double(), y.grad, rtol=1e-4, atol=1e-5 * scale
        )


def test_the_comparison_can_tell_the_recipes_apart(recipes):
    """Quota and divergence each show: one taken for the other would be seen."""
    verl = recipes["verl"]
    rounded_up = replace(verl, quota="ceil")
    more = set()
    for seed in range(8):
        logits, tokens = draw(47, seed)
        counts = [len(composed(r, logits, tokens, 1)[1]) for r in (verl, rounded_up)]
        more.add(counts[1] - counts[0])
    assert more == {0, 1}
    loss, _ = composed(verl, logits, tokens, 1.0)
    for divergence in ("k1", "k2", "kl"):
        other, _ = composed(replace(verl, divergence=divergence), logits, tokens, 1.0)
        assert not torch.isclose(loss, other, rtol=1e-3)


@pytest.mark.parametrize("rule", ["verl", "areal"])
@pytest.mark.parametrize("advantage", [0.0, -0.5])
def test_a_response_without_advantage_adds_nothing(recipes, rule, advantage):
    logits, tokens = draw(20, 0)
    logits = [x.requires_grad_() for x in logits]
    loss, selected = composed(recipes[rule], logits, tokens, advantage)
    expected, _ = published([x.double() for x in logits], tokens, advantage, rule)
    assert loss == expected == 0 and selected == []
    loss.backward()
    assert all((x.grad == 0).all() for x in logits)
