"""Responses of a run: those it has written, or of its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.inspection.judging import Asking, Grade, Roles, inspect_response
from areal_cppo.inspection.model import VisionModel
from areal_cppo.inspection.settings import Settings
from areal_cppo.report.samples import SampleView, read_samples

N_PROBLEMS = 3  # as many as a run's own samples


def run_folder(path: str) -> RunFolder:
    """The folder of a run, with its configuration.

    Raises
    ------
    UserError
        It is none.
    """
    folder = RunFolder(Path(path).expanduser())
    if not folder.config.is_file():
        raise UserError(
            f"--run: expected a run's folder with config.yaml, found none at {path}; "
            "give the folder that a run wrote"
        )
    return folder


def last_checkpoint(folder: RunFolder) -> Path:
    """The latest of a run's checkpoints.

    Raises
    ------
    UserError
        It has none.
    """
    found = {
        int(path.name.removeprefix("step-")): path
        for path in folder.checkpoints.glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    }
    if not found:
        raise UserError(
            f"--run: expected checkpoints/step-* in {folder.path}, found none; wait "
            "for the run's first, or give --model DIR"
        )
    return found[max(found)]


def written_samples(folder: RunFolder) -> list[SampleView]:
    """The samples that the run wrote at its end; none of a run without.

    Raises
    ------
    UserError
        They can't be read.
    """
    if not (folder.path / "samples.json").is_file():
        return []
    try:
        return read_samples(folder.path)
    except ValueError as error:
        raise UserError(f"--run: samples.json: {error}") from error


def checkpoint_samples(
    folder: RunFolder,
    model: VisionModel,
    asking: Asking,
    settings: Settings,
) -> list[SampleView]:
    """Responses of a checkpoint to the first held-out problems of the run's task."""
    from areal_cppo.config.experiment import load_config
    from areal_cppo.tasks.load import load_task

    config = load_config(folder.config)
    task = load_task(config)
    samples = []
    kind, problems = _problems(task, model)
    for at, problem in enumerate(problems, start=1):
        samples.append(
            inspect_response(
                model,
                model.ask(problem["messages"], problem["images"]),
                asking,
                settings,
                title=f"{kind} problem {at}",
                prompt=f"{problem['messages']}\n(answer: {problem['answer']})",
                policy="after",
                grade=_grade(task, problem, config.actor.correct_reward),
                roles=_roles(task),
            )
        )
    return samples


def _problems(task: Any, model: VisionModel) -> tuple[str, Iterable[dict[str, Any]]]:
    """The first problems with an image, and of which kind they are: held-out ones;
    of a run that has none, those it trains on."""
    if hasattr(task, "heldout_dataset"):
        kind, problems = "Held-out", task.heldout_dataset(model.processor, N_PROBLEMS)
    elif validation := task.valid_dataset():
        kind, problems = "Validation", validation
    else:
        kind, problems = "Training", task.train_dataset()
    all_problems = (problems[at] for at in range(len(problems)))
    with_image = (problem for problem in all_problems if problem["images"])
    return kind, islice(with_image, N_PROBLEMS)


def _roles(task: Any) -> Roles | None:
    """Where the task is synthetic, what each token does is known."""
    if not hasattr(task, "heldout_dataset"):
        return None
    from areal_cppo.tasks.responses import token_roles

    return token_roles


def _grade(task: Any, problem: dict[str, Any], correct_reward: float) -> Grade:
    module, _, name = task.workflow_kwargs["reward_fn"].rpartition(".")
    reward_fn = getattr(import_module(module), name)
    weights = {
        key: task.workflow_kwargs["reward"][key]
        for key in ("answer_weight", "format_weight")
    }
    known = {
        key: value
        for key, value in problem.items()
        if key not in ("messages", "images")
    }

    def grade(text: str) -> tuple[float, bool]:
        reward = float(reward_fn(problem["messages"], text, [], [], **known, **weights))
        return reward, reward > correct_reward

    return grade
