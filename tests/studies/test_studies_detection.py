"""Detection metrics against values worked by hand; failure cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from areal_cppo.core import CPLConfig, entropy_gain
from areal_cppo.studies import failures
from areal_cppo.studies.detection import (
    SCORES,
    by_rule,
    found,
    ranking,
    records,
    role_records,
)
from areal_cppo.studies.tokens import Measures, Responses, StudyViews
from areal_cppo.tasks.problems import reading_task
from areal_cppo.tasks.sampling import problem_pixels

ENTROPY = arrays.arrays(np.float64, 12, elements=st.floats(0.01, 3))


def test_ranking_by_hand():
    """True tokens rank first and third of four: 3 of 4 pairs are in order; precision
    is 1 at the first and 2/3 at the second."""
    score = np.array([0.9, 0.1, 0.7, 0.8])
    truth = np.array([True, False, True, False])
    result = ranking(score, truth)
    assert result["auc"] == pytest.approx(3 / 4)
    assert result["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["precision_at_recall"] == pytest.approx(2 / 3)  # .5 is too little


def test_best_precision_is_at_any_recall_that_suffices():
    """Of four true tokens three rank first: recall .75 at precision 1."""
    score = np.array([9, 8, 7, 6, 5, 4, 3.0])
    truth = np.array([1, 1, 1, 0, 0, 0, 1], dtype=bool)
    assert ranking(score, truth)["precision_at_recall"] == 1.0


def test_ties_are_one_threshold():
    result = ranking(np.zeros(4), np.array([True, False, False, False]))
    assert result["auc"] == 0.5
    assert result["average_precision"] == result["precision_at_recall"] == 0.25


def test_one_kind_of_token_has_no_ranking():
    for truth in (np.zeros(3, bool), np.ones(3, bool)):
        assert set(ranking(np.arange(3.0), truth).values()) == {None}


def test_found_by_hand():
    selected = np.array([1, 1, 1, 0, 0], dtype=bool)
    truth = np.array([1, 0, 0, 1, 0], dtype=bool)
    result = found(selected, truth, n_responses=2)
    assert result == {"precision": 1 / 3, "recall": 1 / 2, "tokens": 1.5}


def test_nothing_selected_and_nothing_to_find():
    nothing = np.zeros(3, bool)
    assert found(nothing, np.ones(3, bool), 1)["precision"] is None
    assert found(np.ones(3, bool), nothing, 1)["recall"] is None


def test_rule_takes_half_of_each_response_s_positive_scores():
    score = np.array([0.5, 0.1, 0.2, -1.0, 0.0, 3.0, 1.0])
    sequences = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    rule = by_rule(score, sequences, CPLConfig(top_fraction=0.5))
    assert rule.tolist() == [True, False, True, False, False, True, False]


@given(ENTROPY, ENTROPY)
def test_quotients_of_the_two_entropies_rank_alike(anchor, negative):
    """Why the rise over the anchor's entropy, or over the sum, has no row of its own:
    all are monotone in one quotient, as is the published gain where entropy rises."""
    rise = negative - anchor
    gain = entropy_gain(torch.tensor(anchor), torch.tensor(negative)).numpy()
    up = rise > 0
    for other in (rise / anchor, rise / (anchor + negative)):
        for i in np.flatnonzero(up):
            for j in np.flatnonzero(up):
                if gain[i] > gain[j] + 1e-5:
                    assert other[i] > other[j]


def responses_and_measures():
    """Two responses of 3 and 2 tokens; R, T, N and R, T."""
    task = reading_task("triangles")
    problems = [task.make_problem(0, i, "held_out") for i in range(2)]
    responses = Responses(
        problems,
        problem_pixels(problems),
        torch.tensor([[10, 11, 12], [13, 1, 0]]),
        torch.tensor([3, 2]),
        [["1", "2", "3"], ["4", "<eos>"]],
        [problem.score("") for problem in problems],
        np.array(["R", "T", "N", "R", "T"]),
    )
    measures = Measures(
        anchor_entropy=np.array([0.5, 0.1, 0.9, 0.4, 0.2]),
        negative_entropy=np.array([1.5, 0.2, 0.8, 0.4, 0.3]),
        gain=np.array([2 / 3, 1 / 2, 0.0, 0.0, 1 / 3]),
        negative_divergence=np.array([1.0, 0.2, 0.3, 0.4, 0.5]),
        positive_divergence=np.array([0.1, 0.1, 0.1, 0.1, 0.1]),
        drop=np.array([1.0, 0.0, 0.0, -1.0, 0.0]),
        selected=np.array([1, 0, 0, 0, 1], dtype=bool),
    )
    return task, responses, measures


def test_records_by_hand():
    _, responses, measures = responses_and_measures()
    lines = {x["score"]: x for x in records(responses, measures, CPLConfig())}
    assert set(lines) == {"selection", *SCORES}
    chosen = lines["selection"]
    assert (chosen["precision"], chosen["recall"], chosen["tokens"]) == (0.5, 0.5, 1.0)
    assert chosen["base_rate"] == pytest.approx(2 / 5)
    rise = lines["entropy_rise"]  # R 1.0, T .1, N -.1, R 0, T .1
    # The second R ranks below both T, above N; the first above all.
    assert rise["auc"] == pytest.approx(4 / 6)
    assert lines["divergence_margin"]["auc"] == pytest.approx(5 / 6)


def test_roles_by_hand():
    _, responses, measures = responses_and_measures()
    roles = {line["role"]: line for line in role_records(responses, measures)}
    assert {role: line["n_tokens"] for role, line in roles.items()} == {
        "R": 2,
        "T": 2,
        "N": 1,
    }
    assert roles["T"]["negative_divergence"] == pytest.approx(0.35)
    assert roles["R"]["selected"] == 0.5


def test_failures_are_the_worst_selections(tmp_path):
    task, responses, measures = responses_and_measures()
    views = {
        "positive": responses.pixels,
        "negative": torch.flip(responses.pixels, [0]),
    }
    samples = failures.worst(
        responses,
        measures,
        views,
        StudyViews(task).layout,
        1,
        title="a run",
        policy="after",
    )
    assert len(samples) == 1
    sample = samples[0]  # the second: its R is missed, a T is selected
    assert sample.title == (
        "a run, held-out problem 2: 1 of 1 reading tokens missed, 1 others selected"
    )
    assert [token.role for token in sample.tokens] == ["R", "T"]
    assert [token.selected for token in sample.tokens] == [False, True]
    assert np.array_equal(
        np.asarray(sample.anchor), np.asarray(responses.problems[1].image)
    )
    for _ in range(2):  # again, in its place
        failures.write(tmp_path / "there", samples, CPLConfig(), title="a run")
    assert (tmp_path / "there" / "samples" / "0-negative.png").is_file()
    page = (tmp_path / "there" / "failures.html").read_text()
    assert "a run: where the selection fails most" in page
    assert "1 of 1 reading tokens missed" in page
