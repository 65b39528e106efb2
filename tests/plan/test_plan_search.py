"""Splits, which of them are simulated, the recommendation, the reasons, the picture.

Covers that all GPUs are used, that the search finds what trying everything finds, that
each bottleneck is named, and what a plan's JSON and table hold.
"""

from __future__ import annotations

import json

import pytest

from areal_cppo.errors import UserError
from areal_cppo.plan.bounds import step_bound
from areal_cppo.plan.plots import draw
from areal_cppo.plan.search import Candidate, Plan, search, splits
from areal_cppo.plan.setting import Setting
from areal_cppo.plan.simulation import simulate
from areal_cppo.plan.table import as_json, reason, table

BASE = Setting(1, 1, batch=8, group=4, staleness=0, steps=8)
TAIL = (
    "response_tokens",
    {"kind": "lognormal", "median": 40, "sigma": 0.7} | {"maximum": 200},
)


@pytest.fixture(scope="module")
def found(rates) -> tuple[Plan, object]:
    plan, tail = Plan(12), rates(TAIL)
    return search(tail, plan, BASE, [0, 1, 4], tries=6), tail


@pytest.mark.parametrize(
    ("server", "rank", "gpus"), [(1, 1, 8), (2, 4, 64), (8, 1, 30)]
)
def test_splits_use_all_gpus_there_is_a_use_for(rates, server, rank, gpus):
    pairs = splits(
        rates(("server.gpus", server), ("trainer.gpus", rank)), gpus, samples=10_000
    )
    assert len(dict(pairs)) == len(pairs)
    for servers, ranks in pairs:
        left = gpus - servers * server - ranks * rank
        assert servers >= 1 and ranks >= 1 and 0 <= left < max(server, rank)


def test_no_more_ranks_than_samples(rates):
    assert max(ranks for _, ranks in splits(rates(), 100, samples=7)) == 7


@pytest.mark.parametrize("gpus", [0, -4, 5, 100_000])
def test_too_few_gpus_or_too_many(rates, gpus):
    with pytest.raises(UserError, match=r"--gpus: expected 6 \(2 for a server, 4 for"):
        splits(rates(("server.gpus", 2), ("trainer.gpus", 4)), gpus, 100)


def test_the_search_finds_what_trying_everything_finds(rates, found):
    plan, tail = found
    assert plan.complete
    for bound in (0, 1, 4):
        mine = [c for c in plan.candidates if c.setting.staleness == bound]
        assert len(mine) == 11
        everything = max(simulate(tail, c.setting).samples_per_second for c in mine)
        simulated = [c for c in mine if c.outcome]
        assert 1 <= len(simulated) <= 6
        best = max(c.samples_per_second for c in simulated)
        assert best >= 0.97 * everything


def test_the_recommendation_is_the_lowest_bound_near_the_best(found):
    plan, _ = found
    best, chosen = plan.best[0], plan.recommended
    assert chosen.samples_per_second >= 0.98 * best.samples_per_second
    for other in plan.best:
        if other.samples_per_second >= 0.98 * best.samples_per_second:
            assert chosen.setting.staleness <= other.setting.staleness


def _reason(rates, **setting) -> str:
    setting = Setting(**{"ranks": 1, "group": 4, "steps": 12, "warmup": 6} | setting)
    candidate = Candidate(setting, step_bound(rates, setting))
    assert reason(candidate) == "not simulated"
    candidate.outcome = simulate(rates, setting)
    return reason(candidate)


def test_each_bottleneck_has_its_name(rates):
    quick = rates(("trainer.step_seconds", 0.1), ("trainer.token_seconds", 1e-5))
    slow = rates(("trainer.step_seconds", 200.0))
    long = rates(("reward_seconds", 300.0), ("server.slots", 64))
    assert "one side waits for the other" in _reason(
        quick, servers=1, batch=4, staleness=0, ranks=1
    )
    assert "training is the bottleneck" in _reason(
        slow, servers=4, batch=2, staleness=2
    )
    assert "generation is the bottleneck" in _reason(
        quick, servers=1, batch=8, staleness=4
    )
    assert "the staleness bound is the bottleneck" in _reason(
        long, servers=4, batch=2, staleness=1, concurrent=100
    )
    assert "max_concurrent_rollouts leaves" in _reason(
        long, servers=4, batch=2, staleness=8, concurrent=2
    )


def test_a_plan_as_json_and_as_a_table(found):
    plan, tail = found
    document = json.loads(json.dumps(as_json(plan, tail, most=3)))
    assert document["simulated"] is True and document["complete"] is True
    assert len(document["candidates"]) == 33 and len(document["best"]) == 3
    best = document["best"][0]
    assert best["generation_gpus"] + best["training_gpus"] == 12
    assert len(best["outcome"]["steps"]) == 8 + best["staleness"] + 2
    assert best["outcome"]["samples_per_second"] <= best["most_samples_per_second"]
    text = table(plan, tail, 3)
    assert "recommended: " in text and "max_head_offpolicyness" in text
    assert max(map(len, text.splitlines())) < 250


def test_the_picture_has_a_line_a_bound_and_rings_the_recommendation(found):
    plan, tail = found
    figure = draw(plan, tail)
    (ax,) = figure.axes
    *names, last = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["bound 0", "bound 1", "bound 4", "all GPUs take turns"]
    chosen = plan.recommended
    servers, bound = chosen.setting.servers, chosen.setting.staleness
    assert last == f"recommended: {servers} GPUs generate, bound {bound}"
    ring = ax.lines[-1].get_xydata().tolist()
    assert ring == [[servers, chosen.samples_per_second]]
    assert "12 GPUs" in figure.get_suptitle()
    assert ax.get_xlabel().startswith("GPUs") and "samples/s" in ax.get_ylabel()
