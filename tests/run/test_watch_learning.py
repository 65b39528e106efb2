"""What keeps a policy from learning is said, once, and a healthy run hears nothing.

Made-up records. Not covered: whether the thresholds suit large models.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from random import Random
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.cli.main import make_parser
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.rollout.refusals import REASONS
from areal_cppo.run.health import RunWatch
from areal_cppo.run.health_cpl import MOVED
from areal_cppo.run.health_history import LASTING, WINDOW
from areal_cppo.run.health_learning import REMEDY

BEGIN = 30  # the step from which on something goes wrong
SIGNAL = "equal_reward_groups"


def healthy(step: int, random: Random, **more: Any) -> dict[str, Any]:
    """A step of a run that learns, slowly and noisily."""

    def about(value: float, noise: float = 0.2) -> float:
        return value * (1 + random.uniform(-noise, noise))

    accuracy = min(1.0, about(0.3 + 0.001 * step, 0.4))
    return {
        "step": step,
        "samples": 64 * step,
        "refused": {"vision_token": step // 3, "group_dropped": step // 9},
        "reward": 0.9 * accuracy + 0.1,
        "accuracy": accuracy,
        "reward/answer": accuracy,
        "reward/format": about(0.8),
        "reward/judges_differ": about(0.03, 1.0),
        "response_tokens": about(300),
        "cut_off_responses": about(0.1, 1.0),
        SIGNAL: about(0.45, 0.5),
        f"{SIGNAL}_zero": about(0.3, 0.5),
        f"{SIGNAL}_correct": about(0.1, 0.5),
        "grad_norm": about(0.4, 0.8),
        "policy_entropy": about(0.4),
        "behaviour_importance_weight": about(1.0, 0.05),
        "staleness_mean": about(1.0),
        "clip_ratio": about(0.05, 1.0),
        "cpl_gated_responses": float(random.randint(5, 30)),
        "cpl_negative_divergence": about(0.05, 0.9),
        "cpl_gain_p90": about(0.2),
        **more,
    }


def course(wrong: dict, steps: int = 60, begin: int = 1, seed: int = 0) -> list[dict]:
    """Records in which something is wrong from a step on."""
    random = Random(seed)
    return [
        healthy(step, random, **(wrong if step >= begin else {}))
        for step in range(1, steps + 1)
    ]


def warned(records: list[dict], last: bool = False) -> list[tuple[int, str]]:
    """What a watch says; `last`: the run ends with the last of them."""
    watch, found = RunWatch(), []
    for record in records:
        lines = watch.look(record, last=last and record is records[-1])
        found += [(record["step"], line) for line in lines]
    return found


def groups(equal: float, zero: float = 0.0, correct: float = 0.0) -> dict:
    return {SIGNAL: equal, f"{SIGNAL}_zero": zero, f"{SIGNAL}_correct": correct}


def parts(answer: float, form: float) -> dict:
    return {"reward/answer": answer, "reward/format": form}


# What is wrong from the first step on, the step at which it is said, and words of it.
WEIGHT = "behaviour_importance_weight"
NOTHING = {"reward": 0.0, "accuracy": 0.0, "grad_norm": 0.0, **groups(1.0, 1.0)}
NOTHING |= {"cpl_gated_responses": 0.0}
FAULTS = {
    "no reward": (NOTHING, LASTING, "0 for all 320 responses since the start"),
    "too hard": (groups(0.9, 0.85), WINDOW, "85% have the reward 0 throughout"),
    "too easy": (groups(1.0, 0.0, 0.9), WINDOW, "90% are correct throughout"),
    "alike": (groups(0.95, 0.1, 0.1), WINDOW, "75% have one and the same reward"),
    "no gradient": ({"grad_norm": 0.0}, WINDOW, "gradient is 0 for 10 steps"),
    "cut off": ({"cut_off_responses": 0.4}, WINDOW, "40% of the responses are cut off"),
    "no format": (parts(0.3, 0.0), WINDOW, "30% of the answers are right but not one"),
    "no answer": (parts(0.0, 0.9), WINDOW, "90% of the responses keep the format but"),
    "judges": ({"reward/judges_differ": 0.2}, WINDOW, "of 20% of the answers"),
    "stale": ({WEIGHT: 1.4, "staleness_mean": 3.0}, WINDOW, "too stale"),
    "engines": ({WEIGHT: 0.7, "staleness_mean": 0.0}, WINDOW, "disagree about"),
    "clipped": ({"clip_ratio": 0.4}, WINDOW, "40% of the tokens are clipped"),
    "blind": ({"cpl_negative_divergence": 1e-4}, WINDOW, "same without its image"),
    "skipped": ({"update_skipped": 1.0}, 1, "an update was skipped"),
}
# What is found by comparison with the run's first window.
CHANGES = {
    "entropy falls": (
        {"policy_entropy": 0.02},
        "at first and now 0.02, fell:",
    ),
    "entropy rises": ({"policy_entropy": 3.0}, "rose: it falls apart"),
    "lengths rise": (
        {"response_tokens": 900.0, "reward": 0.1},
        "where they had 300 at first",
    ),
    "lengths fall": ({"response_tokens": 20.0, "reward": 0.1}, "have 20 tokens where"),
}


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_hears_nothing(seed):
    records = course({}, 200, seed=seed)
    assert warned(records) == warned(records[:2], last=True) == []
    assert warned(records[:1], last=True) == []


@pytest.mark.parametrize(("wrong", "at", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_said_once(wrong, at, words):
    ((step, line),) = warned(course(wrong))
    assert step == at and words in line and "\n" not in line
    ((step, _),) = warned(course(wrong, begin=BEGIN))
    assert BEGIN <= step <= BEGIN + WINDOW


@pytest.mark.parametrize(("wrong", "words"), CHANGES.values(), ids=CHANGES)
def test_a_change_for_the_worse_is_said_once(wrong, words):
    ((step, line),) = warned(course(wrong, begin=BEGIN))
    assert BEGIN < step <= BEGIN + WINDOW and words in line
    assert warned(course(wrong)) == []  # it was so from the start


@pytest.mark.parametrize(
    "wrong",
    [w for name, (w, *_) in (FAULTS | CHANGES).items() if name != "skipped"],
)
def test_a_few_odd_steps_are_no_fault(wrong):
    random = Random(0)
    odd = [healthy(n, random, **wrong if n % 4 == 0 else {}) for n in range(1, 80)]
    assert warned(odd) == []


SHORT = [name for name in FAULTS if name not in ("clipped", "skipped")]


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("steps", [1, 2, LASTING - 1])
def test_a_short_run_says_it_at_its_end(name, steps):
    records = course(FAULTS[name][0], steps)
    assert warned(records) == []  # it may go on
    ((step, line),) = warned(records, last=True)
    assert step == steps
    if name == "judges":
        assert ("one step" if steps == 1 else f"median of {steps} steps") in line


def test_what_was_said_is_not_said_at_the_end_again():
    assert len(warned(course(NOTHING, WINDOW - 1), last=True)) == 1
    assert warned(course(FAULTS["cut off"][0], WINDOW), last=True)[0][0] == WINDOW


def test_rewards_of_both_signs_are_rewards():
    """A mean of 0, of responses that differ."""
    assert warned(course({"reward": 0.0})) == []


def refusals(step: int, share: float, reason: str) -> dict[str, Any]:
    """So far; before `BEGIN` none was refused."""
    lost = round(64 * max(0, step - BEGIN + 1) * share)
    counts = {"samples": 64 * step - lost, "refused": {reason: lost, "other": 0}}
    return healthy(step, Random(step), **counts)


@pytest.mark.parametrize("reason", REASONS)
def test_refused_by_reason(reason):
    records = [refusals(step, 0.9, reason) for step in range(1, 60)]
    *raised, (step, line) = warned(records)
    # A quarter of ten steps' responses.
    assert step == BEGIN + 2 and REMEDY[reason] in line and reason in line
    assert len(raised) == (reason == "reward_error")
    few = warned([refusals(step, 0.2, reason) for step in range(1, 60)])
    assert len(few) == len(raised)


def test_a_reward_function_that_raises_is_told_of_at_once():
    lost = {"samples": 64, "refused": {"reward_error": 3}}
    ((step, line),) = warned([healthy(n, Random(0), **lost) for n in range(1, 60)])
    assert step == 1
    assert line.startswith("the reward function raised for 3 of the responses so far")


def test_refused_from_the_start():
    lost = {"samples": 16, "refused": {"reward_error": 48, "prompt_too_long": 2}}
    *_, (_, line) = warned([healthy(1, Random(0), **lost)], last=True)
    assert "76% of the responses" in line
    assert "(prompt_too_long 2, reward_error 48); the reward function raises" in line
    few = {"samples": 4, "refused": {"vision_token": 8}}
    assert warned([healthy(1, Random(0), **few)], last=True) == []


def test_each_reason_has_a_remedy():
    assert set(REMEDY) == set(REASONS)


def test_a_task_that_is_learnt_needs_no_exploring():
    wrong = CHANGES["entropy falls"][0] | {"accuracy": 0.95}
    assert warned(course(wrong, begin=BEGIN)) == []


def test_lengths_may_go_with_the_reward():
    for tokens in (20.0, 900.0):
        wrong = {"response_tokens": tokens, "reward": 0.9}
        assert warned(course(wrong, begin=BEGIN)) == []


@pytest.mark.parametrize("name", MOVED)
def test_blind_by_what_the_objective_has(name):
    records = course({name: 1e-4})
    for record in records:
        for other in MOVED:
            if other != name:
                record.pop(other, None)
    ((_, line),) = warned(records)
    assert name in line
    assert f"{name.split('_')[0].upper()} finds nothing" in line


def block(config: type, prefix: str = "") -> set[str]:
    """The dotted names of all settings."""
    hints, found = get_type_hints(config), set()
    for each in fields(config):
        found.add(prefix + each.name)
        for kind in (hints[each.name], *get_args(hints[each.name])):
            if is_dataclass(kind):
                found |= block(kind, f"{prefix}{each.name}.")
    return found


def test_what_a_warning_names_exists():
    """Settings, commands and metrics."""
    known = block(CPPOConfig)
    faults = [wrong for wrong, *_ in (FAULTS | CHANGES).values()]
    courses = [course(wrong, begin=begin) for wrong in faults for begin in (1, BEGIN)]
    text = " ".join(line for records in courses for _, line in warned(records))
    text += " ".join(REMEDY.values())
    named = set(re.findall(r"\b[a-z]+(?:\.[a-z_]+)+\b(?!/)", text))
    named = {name for name in named if not name.endswith(".md")}
    assert len(named) > 10
    for name in named:
        assert name in known or f"actor.{name}" in known, name
    commands = set(re.findall(r"areal-cppo ([a-z]+)", text))
    shown = make_parser().format_help()
    assert commands and all(command in shown for command in commands)


METRICS = sorted({*healthy(1, Random(0)), *MOVED} - {"step", "samples", "refused"})


@settings(max_examples=20)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(METRICS), st.floats() | st.none()), max_size=20
    )
)
def test_no_record_is_too_odd(records):
    watch = RunWatch()
    for record in records:
        assert all(isinstance(line, str) for line in watch.look(record, last=True))
