"""What the actor records of an update, against the naive reference and by hand.

How a line of metrics.jsonl is made is in run/test_recorder.py; that all ranks together
record the same is in test_actor_distributed.py.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

from areal_cppo.core import StalenessConfig
from areal_cppo.folder import RunFolder
from areal_cppo.metrics import declared
from areal_cppo.run.recorder import MetricsRecorder
from areal_cppo.step.metrics import METRICS as STEP
from areal_cppo.step.metrics import Meter
from tests.step import harness, naive

CPL = "ppo_actor/update/cpl"
METRICS = declared()


def mean(values) -> float:
    values = list(values)
    return sum(float(value) for value in values) / len(values)


def assert_quantiles(stats, gains) -> None:
    ordered = gains.sort().values
    for q in (10, 50, 90):
        exact = ordered[math.ceil(q / 100 * len(ordered)) - 1]
        assert stats[f"cppo/gain_p{q}"] == pytest.approx(float(exact), abs=1e-3)


def test_averages_equal_naive(actor, model_folder):
    """Every average over gated, perception and unselected tokens, token by token."""
    batch = harness.prepared(actor, harness.uneven_batch())
    _, stats = harness.update_gradient(actor, batch)
    model = naive.load(model_folder)
    gated, selected, rest = [], [], []
    for item in (batch[i] for i in (0, 2, 4)):
        n = naive.n_response(item)
        images = item["multi_modal_input"][0]["pixel_values"]
        views = [images, naive.view(item, "positive"), naive.view(item, "negative")]
        with torch.no_grad():
            anchor, positive, negative = (
                naive.response_logits(model, item, view).double() for view in views
            )
        chosen = naive.select(anchor, negative, 0.5, [True] * n)
        for t, (h, h_neg) in enumerate(
            zip(naive.entropy(anchor), naive.entropy(negative))
        ):
            near = float(naive.kl(anchor[t], positive[t]))
            far = float(naive.kl(anchor[t], negative[t]))
            at = -n - 1 + t
            ratio = math.exp(item["prox_logp"][0, at] - item["logprobs"][0, at])
            token = {
                "anchor_entropy": h,
                "negative_entropy": h_neg,
                "entropy_gain": max(0.0, h_neg - h) / (h_neg + 1e-6),
                "positive_divergence": near,
                "negative_divergence": far,
                "margin": far - near,
                "inverted_margin": max(0.0, near - far),
                "loss": math.log1p(math.exp((near - far) / 0.1)),
                "staleness_weight": min(ratio, 5.0),
                "staleness_weight_squared": min(ratio, 5.0) ** 2,
            }
            gated.append(token)
            (selected if t in chosen else rest).append(token)
    at_gate = ("anchor_entropy", "negative_entropy", "entropy_gain")
    expected = {name: mean(token[name] for token in gated) for name in at_gate}
    expected |= {
        name: mean(token[name] for token in selected)
        for name in selected[0]
        if name not in at_gate
    }
    expected |= {
        f"selected_{name.removeprefix('entropy_')}": mean(t[name] for t in selected)
        for name in at_gate
    }
    far = mean(token["negative_divergence"] for token in rest)
    expected["unselected_divergence"] = far
    recorded = {name: stats[f"{CPL}/{name}"] for name in expected}
    assert recorded == pytest.approx(expected, rel=1e-4)
    gains = torch.tensor([token["entropy_gain"] for token in gated])
    assert_quantiles(stats, gains)


def test_counts(actor, configure):
    """Three gated responses of 12, 7 and 31 tokens, one of them half stale."""
    configure(selection="all", staleness=StalenessConfig(max_staleness=1))
    actor.set_version(2)
    batch = [
        *harness.uneven_batch(),
        harness.text_only(harness.trajectory(8, 10, 1.0)),
        harness.trajectory(9, 4, 0.0),  # advantage 0: the gate demands more
    ]
    for item in batch:
        item["versions"][item["loss_mask"].bool()] = 2
    batch[0]["versions"][0, -5:] = 0
    batch[2]["versions"][0, -3:] = 1  # as stale as allowed
    _, stats = harness.update_gradient(actor, harness.prepared(actor, batch))
    expected = {
        "gated_responses": 3,
        "view_sequences": 3,
        "text_only_responses": 1,
        "unchanged_responses": 0,
        "positive_views": 3,
        "negative_views": 3,
        "gated_tokens": 12 + 7 + 31,
        "perception_tokens": 12 + 7 + 31,
        "unselected_tokens": 0,
        "stale_tokens": 5,
        "nonfinite_tokens": 0,
        "skipped_responses": 0,
        # Image, its two marks, prompt and response; seen twice.
        "view_tokens": 2 * ((6 + 3 + 12) + (8 + 3 + 7) + (4 + 5 + 31)),
        "view_patches": 2 * (4 * 4 + 6 * 4 + 2 * 4),
    }
    assert {name: stats[f"{CPL}/{name}"] for name in expected} == expected
    for name in ("perturb", "negative_view", "positive_view"):
        assert stats[f"cppo/seconds_{name}"] > 0


def test_quantiles_to_a_thousandth(actor):
    meter = Meter()
    gains = torch.rand(997, generator=torch.Generator().manual_seed(0)) ** 3
    for part in gains.split(100):
        meter.gains(torch.cat([part, torch.tensor([float("nan")])]))
    meter.flush(actor._ranks)
    stats = actor.export_stats()
    assert_quantiles(stats, gains)
    meter.flush(actor._ranks)  # nothing since: no quantiles
    assert "cppo/gain_p50" not in actor.export_stats()


def line(folder, stats) -> dict:
    """What becomes of them in metrics.jsonl."""
    recorder = MetricsRecorder(RunFolder(folder).create(), lambda *_, **__: None)
    recorder.step_done(1, stats)
    return json.loads(recorder.folder.metrics.read_text())


def test_all_that_the_actor_records_of_cpl_is_in_the_line(actor, tmp_path):
    """A real update has something of each kind, so nothing has reason to be absent."""
    batch = harness.prepared(actor, harness.uneven_batch())
    _, stats = harness.update_gradient(actor, batch)
    read = {metric.key for metric in METRICS.values()}
    recorded = {key for key in stats if key.startswith(f"{CPL}/")} - {f"{CPL}/rows"}
    assert recorded <= read
    record = line(tmp_path, stats)
    of_cpl = {name for name in METRICS if name.startswith("cpl_")}
    assert of_cpl <= set(record) <= set(METRICS)
    timed = {m.name for m in STEP if m.name.startswith("seconds_")}
    assert timed <= set(record)
    inside = record["seconds_inside"]
    assert 0 < sum(record[name] for name in timed) - inside < inside
    assert record["cpl_selected_per_response"] > 0
    assert record["cpl_gain_p10"] <= record["cpl_gain_p50"] <= record["cpl_gain_p90"]


@pytest.mark.parametrize("objective", ["papo", "vppo", "dvrp", "pgpo"])
def test_so_is_what_it_records_of_another_objective(actor, tmp_path, objective):
    actor.config.objective = objective
    batch = harness.prepared(actor, harness.uneven_batch())
    _, stats = harness.update_gradient(actor, batch)
    record = line(tmp_path, stats)
    own = {name for name in METRICS if name.startswith(f"{objective}_")}
    assert own <= set(record) <= set(METRICS)
    others = tuple({"cpl_", "papo_", "vppo_", "dvrp_", "pgpo_"} - {f"{objective}_"})
    assert not any(name.startswith(others) for name in record)
    assert record[f"{objective}_responses"] == 5
