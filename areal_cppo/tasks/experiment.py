"""A synthetic task as an experiment: data, reward, held-out accuracy, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, ProcessorMixin

from areal_cppo.config.experiment import CPPOConfig, workflow_kwargs
from areal_cppo.folder import RunFolder
from areal_cppo.inspection.picture_input import PictureInput
from areal_cppo.inspection.tokens import judge, token_views
from areal_cppo.inspection.views import VIEW_KINDS, Views
from areal_cppo.report.samples import SampleView, write_samples
from areal_cppo.tasks import responses, sampling, vocabulary
from areal_cppo.tasks.dataset import ReadingDataset
from areal_cppo.tasks.task import Problem, ReadingTask

N_SAMPLES = 3  # responses shown of each policy
HELDOUT_SEED = 0  # the same problems whatever the run's seed


class ReadingExperiment:
    """What the controller asks of a task (`areal_cppo.run.heldout.Task`)."""

    def __init__(self, config: CPPOConfig, task: ReadingTask):
        self.config = config
        self.task = task
        self.workflow_kwargs = workflow_kwargs(
            config, "areal_cppo.tasks.reward.reward_fn"
        )

    def train_dataset(self) -> ReadingDataset:
        """As many problems as the run can use: none is seen twice."""
        config = self.config
        steps = config.total_train_steps or 1
        in_flight = config.rollout.max_head_offpolicyness + 2
        size = (steps + in_flight) * config.train_dataset.batch_size
        processor = AutoProcessor.from_pretrained(config.tokenizer_path)
        return ReadingDataset(self.task, processor, size, config.seed, "train")

    def heldout(self, count: int) -> list[Problem]:
        shift = self.config.heldout.shift
        return [
            self.task.make_problem(HELDOUT_SEED, index, "held_out", shift)
            for index in range(count)
        ]

    def heldout_dataset(self, processor: ProcessorMixin, size: int) -> ReadingDataset:
        """The same problems, as a workflow takes them."""
        shift = self.config.heldout.shift
        return ReadingDataset(
            self.task, processor, size, HELDOUT_SEED, "held_out", shift
        )

    def evaluate(self, checkpoint: Path) -> dict[str, Any]:
        """Greedy accuracy on the held-out problems, in this process.

        `correct` has a character per problem, 1 where its answer is right, so that two
        checkpoints can be compared problem by problem.
        """
        model, _ = sampling.load(checkpoint)
        return sampling.evaluate(model, self.heldout(self.config.heldout.size))

    def write_samples(self, folder: RunFolder, checkpoints: dict[str, Path]) -> None:
        """Greedy responses to the first held-out problems, before and after."""
        problems = self.heldout(N_SAMPLES)
        views = self._views(problems, checkpoints["before"])
        samples: list[SampleView] = []
        for policy, checkpoint in checkpoints.items():
            model, _ = sampling.load(checkpoint)
            samples += self._samples(policy, model, problems, views)
        write_samples(folder.path, samples)

    def _views(self, problems: list[Problem], checkpoint: Path) -> Views:
        """By the checkpoint's processor: views are seeded by its very bytes."""
        source = PictureInput.of_model(str(checkpoint), None)
        return Views.draw(
            *source.patches([problem.image for problem in problems]),
            source.layout,
            self.config.actor.cpl.views,
            self.config.actor.view_seed,
        )

    def _samples(self, policy, model, problems, views: Views) -> list[SampleView]:
        actor = self.config.actor
        ids = sampling.generate(model, views.pixels["anchor"], temperature=0.0)
        with torch.no_grad():
            logits = {
                kind: sampling.response_logits(model, pixels, ids)
                for kind, pixels in views.pixels.items()
            }
        images = {kind: views.pictures(kind) for kind in views.pixels}
        names = {kind: views.names(kind) for kind in VIEW_KINDS}
        decoded = sampling.decode(ids)
        scores = sampling.score_responses(ids, problems)
        samples = []
        for i, (pieces, problem, score) in enumerate(
            zip(decoded, problems, scores, strict=True)
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
                    prompt=f"{vocabulary.QUESTION} (answer: {problem.answer})",
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
