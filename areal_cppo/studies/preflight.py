"""Before anything runs: each arm's configuration, and how long a run will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from areal_cppo.config.agreements import check_agreements
from areal_cppo.config.experiment import CPPOConfig, load_config
from areal_cppo.config.keys import COMMAND_LINE
from areal_cppo.errors import UserError
from areal_cppo.studies.arms import BASE, as_override
from areal_cppo.studies.spec import EvaluationSpec, Run, Study
from areal_cppo.tasks.problems import reading_task

# Seconds of one core of a shared x86-64 virtual machine (2026-11-24). How they relate
# to each other carries over to other machines.
_START = 4.0  # a run's
_PER_SAMPLE = 0.006  # generated and trained on, GRPO
_PER_SAMPLE_VIEWS = 0.004  # both views' passes besides, with gradient
_PER_RESPONSE = 0.003  # generated for an evaluation
_PER_PASS = 0.003  # tokens of a response scored through one view


def check_arms(study: Study) -> dict[str, CPPOConfig]:
    """The configuration of each arm, with the first seed.

    Raises
    ------
    UserError
        An arm's configuration is refused, arms have different numbers of samples, or a
        task has no checkpoint.
    """
    for task in study.tasks:
        checkpoint = reading_task(task).checkpoint
        if not (checkpoint / "config.json").is_file():
            raise UserError(
                f"tasks: expected a model to start {task} from at {checkpoint}, found "
                "none; make it with areal-cppo tiny-model"
            )
    configs = {}
    for arm, overrides in study.arms.items():
        try:
            configs[arm] = load_run_config(
                overrides, seed=study.seeds[0], steps=study.steps, checkpoint=checkpoint
            )
        except UserError as error:
            told = str(error).replace(f"{COMMAND_LINE}: ", "")  # it's the study's file
            raise UserError(f"arms.{arm}: {told}") from error
    sizes = {arm: samples_per_step(config) for arm, config in configs.items()}
    first = next(iter(sizes))
    for arm, size in sizes.items():
        if size != sizes[first]:
            raise UserError(
                f"arms.{arm}: expected {sizes[first]} responses a step as in {first}, "
                f"found {size}; give all arms the same budget "
                "(train_dataset.batch_size times gconfig.n_samples)"
            )
    return configs


def load_run_config(arm: Sequence[str], *, seed: int, steps: int, checkpoint: Path):
    """The configuration of a run (`CPPOConfig`): the base, what the study decides, and
    an arm's overrides.

    Raises
    ------
    UserError
        An unknown key, a value out of range, or a setting that needs more than one
        process.
    """
    decided = {"seed": seed, "total_train_steps": steps, "actor.path": checkpoint}
    own = [as_override(key, value) for key, value in decided.items()]
    config = load_config(BASE, [*own, *arm], begins=False)
    actor = config.actor
    for key, wrong in (
        ("actor.backend", actor.backend != "fsdp:d1p1t1"),
        ("actor.use_lora", actor.use_lora),
        ("actor.kl_ctl", actor.kl_ctl != 0),
    ):
        if wrong:
            raise UserError(
                f"{key}: expected the value of {BASE.name}, found another; a study "
                "trains all weights in one process, without a reference policy"
            )
    check_agreements(config)
    return config


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


def _evaluation_seconds(plan: EvaluationSpec, steps: int) -> float:
    counts = [plan.problems] * (_points(plan.every, steps) - 1) + [plan.final]
    shifted = counts if plan.every else counts[-1:]
    problems = sum(counts)
    problems += len(plan.shifts) * sum(min(count, plan.shifted) for count in shifted)
    passes = 3 * len(counts) * plan.tokens
    return problems * 2 * _PER_RESPONSE + passes * _PER_PASS


def _detection_seconds(run: Run) -> float:
    plan = run.detection
    if plan is None:
        return 0.0
    passes = 3 + len(plan.compared)
    each = plan.problems * (_PER_RESPONSE + passes * _PER_PASS)
    return _points(plan.every, run.steps) * each


def _points(every: int, steps: int) -> int:
    """Steps at which something is due: the first, the last, and every so many."""
    if not steps:
        return 1
    return 2 + ((steps - 1) // every if every else 0)
