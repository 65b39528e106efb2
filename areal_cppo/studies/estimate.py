"""How long runs take, roughly: for the time left, and before anything has run.

Seconds of one core of a shared x86-64 virtual machine (2026-11-24); how they relate to
each other carries over to other machines.
"""

from __future__ import annotations

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.studies.detection_views import VIEWS
from areal_cppo.studies.spec import Evaluation, Run

_START = 4.0  # a run's
_PER_SAMPLE = 0.006  # generated and trained on, GRPO
_PER_SAMPLE_VIEWS = 0.004  # both views' passes besides, with gradient
_PER_RESPONSE = 0.003  # generated for an evaluation
_PER_PASS = 0.003  # tokens of a response scored through one view


def run_seconds(run: Run, config: CPPOConfig) -> float:
    """Seconds that a run takes on one core."""
    samples = samples_per_step(config)
    views = _PER_SAMPLE_VIEWS if config.actor.objective != "grpo" else 0.0
    return (
        _START
        + run.steps * samples * (_PER_SAMPLE + views)
        + _evaluation_seconds(run.evaluate, run.steps)
        + _detection_seconds(run)
    )


def samples_per_step(config: CPPOConfig) -> int:
    """Responses that a step is made of."""
    return config.train_dataset.batch_size * config.gconfig.n_samples


def _evaluation_seconds(plan: Evaluation, steps: int) -> float:
    before = _points(plan.every, steps) - 1
    problems = before * plan.problems + plan.final
    shifts = 1 + len(plan.shifts)
    return problems * 2 * shifts * _PER_RESPONSE + (before + 1) * plan.tokens * (
        3 * _PER_PASS
    )


def _detection_seconds(run: Run) -> float:
    plan = run.detection
    if plan is None:
        return 0.0
    passes = 3 + len(plan.views or VIEWS)
    each = plan.problems * (_PER_RESPONSE + passes * _PER_PASS)
    return _points(plan.every, run.steps) * each


def _points(every: int, steps: int) -> int:
    """Steps at which something is due: the first, the last, and every so many."""
    if not steps:
        return 1
    return 2 + ((steps - 1) // every if every else 0)
