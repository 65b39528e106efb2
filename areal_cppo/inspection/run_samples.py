"""Responses of a run: those it writes at its end, or of its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from areal_cppo.config.blocks import RewardConfig
from areal_cppo.config.experiment import load_config
from areal_cppo.data.task import ProblemTask
from areal_cppo.folder import RunFolder
from areal_cppo.inspection.judging import Asking, Grade, inspect_response
from areal_cppo.inspection.model import VisionModel
from areal_cppo.inspection.picture_input import PictureInput
from areal_cppo.inspection.settings import Settings
from areal_cppo.inspection.tokens import judge, token_views
from areal_cppo.inspection.views import VIEW_KINDS, Views
from areal_cppo.report.samples import SampleView, write_samples
from areal_cppo.rewards.own import arguments
from areal_cppo.rewards.pool import RewardError, RewardPool, RewardTimeout
from areal_cppo.tasks import responses, sampling
from areal_cppo.tasks.experiment import ReadingExperiment, load_task
from areal_cppo.tasks.model import load_model, response_logits
from areal_cppo.tasks.problems import DrawnProblem
from areal_cppo.tasks.tokenizer import decode

N_PROBLEMS = 3  # responses shown of each policy

Task = ReadingExperiment | ProblemTask


def checkpoint_samples(
    folder: RunFolder,
    model: VisionModel,
    asking: Asking,
    settings: Settings,
) -> list[SampleView]:
    """Responses of a checkpoint to the first held-out problems of the run's task."""
    config = load_config(folder.config, begins=False)
    task = load_task(config)
    synthetic = isinstance(task, ReadingExperiment)
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
                grade=_grade(
                    task,
                    problem,
                    model.processor.tokenizer,
                    config.actor.correct_reward,
                ),
                roles=responses.token_roles if synthetic else None,
            )
        )
    return samples


def _problems(task: Task, model: VisionModel) -> tuple[str, Iterable[dict[str, Any]]]:
    """The first problems with an image, and of which kind they are: held-out ones;
    of a run that has none, those it trains on."""
    if isinstance(task, ReadingExperiment):
        kind, problems = "Held-out", task.heldout_dataset(model.processor, N_PROBLEMS)
    elif validation := task.valid_dataset():
        kind, problems = "Validation", validation
    else:
        kind, problems = "Training", task.train_dataset()
    all_problems = (problems[at] for at in range(len(problems)))
    with_image = (problem for problem in all_problems if problem["images"])
    return kind, islice(with_image, N_PROBLEMS)


def _grade(task: Task, problem: dict[str, Any], tokenizer, least: float) -> Grade:
    """In a process of its own, as in training: a user's function may hang."""
    settings = RewardConfig(**task.workflow_kwargs["reward"])

    def grade(text: str) -> tuple[float, bool] | tuple[None, None]:
        given = arguments(problem, settings.sees, text, tokenizer)
        function = task.workflow_kwargs["reward_fn"]
        seconds, weights = settings.timeout_seconds, settings.part_weights
        with RewardPool(function, seconds, 1, weights) as pool:
            try:
                reward = pool.submit(**given).result().value
            except (RewardError, RewardTimeout):  # refused, in training
                return None, None
        return reward, reward > least

    return grade


def write_heldout_samples(
    folder: RunFolder, task: Task, checkpoints: dict[str, Path]
) -> None:
    """Write greedy responses to the first held-out problems of a run.

    Nothing where the task is real data: it would take the model.

    Parameters
    ----------
    checkpoints
        Models' folders by policy, `before` and `after` training.
    """
    if not isinstance(task, ReadingExperiment):
        return
    problems = task.heldout(N_PROBLEMS)
    # By the checkpoint's processor: views are seeded by its very bytes.
    source = PictureInput.of_model(str(checkpoints["before"]), None)
    actor = task.config.actor
    views = Views.draw(
        *source.patches([problem.image for problem in problems]),
        source.layout,
        actor.cpl.views,
        actor.view_seed,
    )
    samples: list[SampleView] = []
    for policy, checkpoint in checkpoints.items():
        samples += _heldout_samples(task, policy, checkpoint, problems, views)
    write_samples(folder.path, samples)


@torch.no_grad()
def _heldout_samples(
    task: ReadingExperiment,
    policy: str,
    checkpoint: Path,
    problems: list[DrawnProblem],
    views: Views,
) -> list[SampleView]:
    actor = task.config.actor
    model = load_model(checkpoint)
    prompts = [problem.prompt for problem in problems]
    ids = sampling.sample(
        model, views.pixels["anchor"], prompts=prompts, temperature=0.0
    ).ids
    logits = {
        kind: response_logits(model, pixels, ids, prompts)
        for kind, pixels in views.pixels.items()
    }
    images = {kind: views.pictures(kind) for kind in views.pixels}
    names = {kind: views.names(kind) for kind in VIEW_KINDS}
    scores = sampling.score_responses(ids, problems)
    samples = []
    for i, (pieces, problem, score) in enumerate(
        zip(decode(ids), problems, scores, strict=True)
    ):
        n = len(pieces)
        numbers = judge(
            {kind: rows[i, :n] for kind, rows in logits.items()},
            ids[i, :n],
            actor.cpl,
            actor.temperature,
            actor.view_seed,
        )
        answer = responses.boxed_answer("".join(pieces))
        samples.append(
            SampleView(
                title=f"Held-out problem {i + 1}",
                prompt=f"{problem.prompt.question} (answer: {problem.answer})",
                tokens=token_views(pieces, numbers, responses.token_roles(pieces)),
                correct=score.correct,
                answer="none" if answer is None else str(answer),
                reward=score.reward,
                policy=policy,
                perturbations={kind: drawn[i] for kind, drawn in names.items()},
                **{kind: pictures[i] for kind, pictures in images.items()},
            )
        )
    return samples
