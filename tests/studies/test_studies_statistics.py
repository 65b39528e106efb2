"""Intervals over seeds against values worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.studies.intervals import mean_interval, paired_difference
from areal_cppo.studies.spec import EvaluationSpec
from areal_cppo.studies.summary import ALL, over, summarise

T_2 = 4.302652729749464  # two-sided 95 % quantile, 2 degrees of freedom (tables: 4.303)


def test_three_values():
    found = mean_interval([0.5, 0.6, 0.7])  # deviation .1
    assert found.mean == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - T_2 * 0.1 / math.sqrt(3))
    assert found.high == pytest.approx(0.6 + T_2 * 0.1 / math.sqrt(3))
    assert found.n == 3
    assert found.excludes_zero


def test_one_value_has_no_interval():
    found = mean_interval([0.5])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    assert not found.excludes_zero


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_pairs_are_made_by_seed():
    """Differences .1, .1, .4 of seeds 1, 2, 4: mean .2, deviation sqrt(.03)."""
    arm = {1: 0.6, 2: 0.5, 3: 0.9, 4: 0.8}
    reference = {4: 0.4, 2: 0.4, 1: 0.5, 7: 0.0}
    found = paired_difference(pd.Series(arm), pd.Series(reference))
    assert found.n == 3
    assert found.mean == pytest.approx(0.2)
    half = T_2 * math.sqrt(0.03) / math.sqrt(3)
    assert found.high - found.mean == pytest.approx(half)
    assert not found.excludes_zero  # .2 - .43


def test_pairing_takes_away_what_seeds_share():
    """Seeds differ by .3, arms by .02 to .03: the paired interval excludes zero."""
    reference = {1: 0.3, 2: 0.6, 3: 0.45}
    arm = {1: 0.32, 2: 0.63, 3: 0.475}
    found = paired_difference(pd.Series(arm), pd.Series(reference))
    assert found.excludes_zero
    assert not mean_interval([0.32 - 0.45, 0.63 - 0.45, 0.475 - 0.45]).excludes_zero


def test_without_a_shared_seed_there_is_no_difference():
    assert paired_difference(pd.Series({1: 0.5}), pd.Series({2: 0.5})) is None


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-5, 5))
def test_interval_moves_with_its_values(values, shift):
    found, moved = (
        mean_interval(values),
        mean_interval([value + shift for value in values]),
    )
    assert moved.mean == pytest.approx(found.mean + shift, abs=1e-9)
    width = found.high - found.low
    assert moved.high - moved.low == pytest.approx(width, abs=1e-6)


def line(seed: int, shift: str, greedy: float, sampled: float):
    return {
        "task": "triangles",
        "arm": "grpo",
        "seed": seed,
        "shift": shift,
        "accuracy": greedy,
        "accuracy_sampled": sampled,
        "samples": 80,
        "n": 500,
        "seconds": 4.0,
        "cpu_seconds": 3.0,
    }


def test_a_mean_over_shifts_is_of_whole_runs():
    lines = pd.DataFrame(
        [
            line(1, "none", 0.9, 0.8),
            line(1, "font", 0.4, 0.2),
            line(1, "noise", 0.6, 0.5),
            line(2, "font", 0.1, 0.1),  # cut off before its second shift
        ]
    )
    found = over(lines, "shift", "mean of shifts", ["font", "noise"])
    assert len(found) == 1
    mean = found.iloc[0]
    assert (mean["seed"], mean["shift"], mean["n"]) == (1, "mean of shifts", 500)
    assert mean["accuracy"] == pytest.approx(0.5)
    assert mean["accuracy_sampled"] == pytest.approx(0.35)


def test_tasks_are_also_averaged_seed_by_seed():
    """What seeds share goes away in the difference of the mean over tasks."""
    lines = []
    for task, seeds in (("triangles", (0.5, 0.7, 0.6)), ("charts", (0.3, 0.2, 0.4))):
        for seed, accuracy in enumerate(seeds, 1):
            for arm, more in (("grpo", 0.0), ("cppo", 0.02 * seed)):
                own = line(seed, "none", accuracy + more, accuracy)
                lines.append(own | {"task": task, "arm": arm, "step": 4})
    del lines[-1]  # of charts, cppo, seed 3: not finished
    study = SimpleNamespace(
        **{"name": "s", "steps": 4, "seeds": [1, 2, 3], "references": ["grpo"]},
        tasks=["triangles", "charts"],
        arms=["grpo", "cppo"],
        evaluate=EvaluationSpec(),
    )
    grpo, cppo = summarise(study, lines)["tasks"][ALL]["none"]
    assert (grpo["seeds"], cppo["seeds"]) == ([1, 2, 3], [1, 2])
    assert grpo["means"]["accuracy"]["mean"] == pytest.approx(0.45)
    found = cppo["differences"]["grpo"]
    assert found["accuracy"]["mean"] == pytest.approx(0.03)
    assert found["accuracy_sampled"]["mean"] == pytest.approx(0.0)


def test_means_are_over_all_shifts_unless_said():
    assert EvaluationSpec(shifts=["font"]).means == {}
    shifts = ["font", "noise"]
    assert EvaluationSpec(shifts=shifts).means == {"mean of shifts": shifts}
    own = {"seen": ["noise"], "held out": ["font"]}
    assert EvaluationSpec(shifts=shifts, means=own).means == own
