"""What is measured of each token, against the model run again and rules by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from areal_cppo.studies.pool import duration
from areal_cppo.studies.preflight import load_run_config
from areal_cppo.studies.tokens import StudyViews, measure, respond, token_logits
from areal_cppo.tasks.model import load_model
from areal_cppo.tasks.problems import reading_task

N = 6


@pytest.fixture(scope="module")
def task():
    return reading_task("triangles")


@pytest.fixture(scope="module")
def actor(task):
    config = load_run_config([], seed=1, steps=1, checkpoint=task.checkpoint)
    return replace(config.actor, temperature=0.8)


@pytest.fixture(scope="module")
def measured(task, actor):
    """Responses, logits by view, and what is measured of them."""
    model = load_model(task.checkpoint)
    problems = [task.make_problem(0, i, "held_out") for i in range(N)]
    responses = respond(model, problems, temperature=1.0, max_new_tokens=40)
    views = StudyViews(task)
    pixels = {
        "anchor": responses.pixels,
        "positive": views.make(responses.pixels, "positive", [{"name": "rotation"}]),
        "negative": views.make(responses.pixels, "negative", [{"name": "blank"}]),
    }
    logits = {k: token_logits(model, responses, v) for k, v in pixels.items()}
    return responses, logits, measure(actor, responses, **logits)


def log_p(logits: torch.Tensor) -> np.ndarray:
    return (logits.double() / 0.8).log_softmax(-1).numpy()


def test_responses_are_told_apart(measured):
    responses, logits, _ = measured
    assert len(responses.roles) == len(logits["anchor"]) == int(responses.lengths.sum())
    flat = [token for row in responses.tokens for token in row]
    assert len(flat) == len(responses.roles)
    assert [len(row) for row in responses.tokens] == responses.lengths.tolist()
    some = responses.first(2)
    assert len(some.roles) == sum(map(len, some.tokens))
    assert some.sequences.tolist() == [0] * len(some.tokens[0]) + [1] * len(
        some.tokens[1]
    )


def test_measures_equal_a_naive_computation(measured):
    responses, logits, found = measured
    p, pos, neg = (log_p(logits[k]) for k in ("anchor", "positive", "negative"))
    close = dict(rtol=1e-4, atol=1e-5)
    entropy = [-(np.exp(q) * q).sum(-1) for q in (p, neg)]
    np.testing.assert_allclose(found.anchor_entropy, entropy[0], **close)
    np.testing.assert_allclose(found.negative_entropy, entropy[1], **close)
    for mine, q in ((found.negative_divergence, neg), (found.positive_divergence, pos)):
        np.testing.assert_allclose(mine, (np.exp(p) * (p - q)).sum(-1), **close)
    at = np.arange(len(p)), responses.labels.numpy()
    np.testing.assert_allclose(found.drop, p[at] - neg[at], **close)


def test_selection_is_the_published_rule(measured):
    responses, _, found = measured
    start = 0
    for length in responses.lengths.tolist():
        gain = found.gain[start : start + length]
        count = -(-int((gain > 0).sum()) // 2)
        best = np.argsort(-gain, kind="stable")[:count]
        selected = found.selected[start : start + length]
        assert sorted(np.flatnonzero(selected)) == sorted(best)
        start += length


def test_selection_follows_the_configuration(measured, actor):
    responses, logits, published = measured
    chosen = {}
    for selection in ("random", "all"):
        changed = replace(actor, cpl=replace(actor.cpl, selection=selection))
        chosen[selection] = measure(changed, responses, **logits).selected
    assert chosen["all"].all()
    assert chosen["random"].sum() == published.selected.sum()
    assert (chosen["random"] != published.selected).any()
    floor = replace(actor, cpl=replace(actor.cpl, min_gain=0.1))
    few = measure(floor, responses, **logits)
    rise = few.negative_entropy - few.anchor_entropy
    assert (rise[few.selected] >= 0.1 * np.log(29) - 1e-6).all()
    assert 0 < few.selected.sum() < published.selected.sum()


def test_durations_read_well():
    assert duration(12) == "10 s"
    assert duration(600) == "10 min"
    assert duration(4800) == "1 h 20 min"
