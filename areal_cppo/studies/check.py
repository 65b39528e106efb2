"""Arms checked before anything runs."""

from __future__ import annotations

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import UserError
from areal_cppo.studies.estimate import samples_per_step
from areal_cppo.studies.overrides import load_run_config
from areal_cppo.studies.spec import Study
from areal_cppo.studies.task import study_task


def check_arms(study: Study) -> dict[str, CPPOConfig]:
    """The configuration of each arm, with the first seed.

    Raises
    ------
    UserError
        An arm's configuration is refused, arms have different numbers of samples, or a
        task has no checkpoint.
    """
    for task in study.tasks:
        checkpoint = study_task(task).checkpoint
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
            raise UserError(f"arms.{arm}: {error}") from error
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
