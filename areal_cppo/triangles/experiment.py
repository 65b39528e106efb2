"""The triangle task as an experiment: data, reward, held-out accuracy, samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoProcessor

from areal_cppo.core import (
    PatchLayout,
    denormalize,
    entropy_gain,
    parse_perturbations,
    perturb_pixel_values,
    rise_eligible,
    select_perception_tokens,
    token_entropy,
    unpatchify,
)
from areal_cppo.report.samples import SampleView, TokenView, write_samples
from areal_cppo.runs.folder import RunFolder
from areal_cppo.training.config import CPPOConfig, workflow_kwargs
from areal_cppo.triangles import sampling, task
from areal_cppo.triangles.dataset import TriangleDataset
from areal_cppo.triangles.pixels import image_grid

N_SAMPLES = 3  # responses shown of each policy
HELDOUT_SEED = 0  # the same problems whatever the run's seed


class TriangleTask:
    """What the controller asks of a task (`areal_cppo.training.heldout.Task`)."""

    def __init__(self, config: CPPOConfig):
        self.config = config
        self.workflow_kwargs = workflow_kwargs(
            config, "areal_cppo.triangles.reward.reward_fn"
        )

    def train_dataset(self) -> TriangleDataset:
        """As many problems as the run can use: none is seen twice."""
        config = self.config
        steps = config.total_train_steps or 1
        in_flight = config.rollout.max_head_offpolicyness + 2
        size = (steps + in_flight) * config.train_dataset.batch_size
        processor = AutoProcessor.from_pretrained(config.tokenizer_path)
        return TriangleDataset(processor, size, config.seed, "train")

    def heldout(self, count: int) -> list[task.Problem]:
        return [
            task.make_problem(HELDOUT_SEED, index, "held_out") for index in range(count)
        ]

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

    def _views(self, problems: list[task.Problem], checkpoint: Path) -> Views:
        image_processor = AutoImageProcessor.from_pretrained(checkpoint, use_fast=False)
        layout = PatchLayout.from_image_processor(image_processor)
        anchor = sampling.problem_pixels(problems)
        grid = image_grid(len(problems))
        views = self.config.actor.cpl.views
        perturbed = {
            kind: perturb_pixel_values(
                anchor,
                grid,
                layout,
                parse_perturbations(getattr(views, kind)),
                kind=kind,
                run_seed=self.config.actor.view_seed,
                policy_version=0,
            ).pixel_values
            for kind in ("positive", "negative")
        }
        return Views({"anchor": anchor, **perturbed}, grid, layout)

    def _samples(self, policy, model, problems, views: Views) -> list[SampleView]:
        cpl, temperature = self.config.actor.cpl, self.config.actor.temperature
        ids = sampling.generate(model, views.pixels["anchor"], temperature=0.0)
        with torch.no_grad():
            entropies = {
                kind: token_entropy(
                    sampling.response_logits(model, views.pixels[kind], ids).flatten(
                        0, 1
                    ),
                    temperature,
                ).view(ids.shape)
                for kind in ("anchor", "negative")
            }
        pair = entropies["anchor"], entropies["negative"]
        gain = entropy_gain(*pair)
        eligible = rise_eligible(*pair, cpl.min_gain, vocabulary=len(task.VOCABULARY))
        images = {kind: views.images(kind) for kind in views.pixels}
        samples = []
        for i, (tokens, problem, score) in enumerate(
            zip(
                sampling.decode(ids),
                problems,
                sampling.score_responses(ids, problems),
                strict=True,
            )
        ):
            n = len(tokens)
            selected = select_perception_tokens(
                gain[i, :n],
                eligible[i, :n],
                torch.zeros(n, dtype=torch.long),
                cpl.top_fraction,
                cpl.quota,
            )
            answer = task.boxed_answer("".join(tokens))
            samples.append(
                SampleView(
                    title=f"Held-out problem {i + 1}",
                    prompt=f"{task.QUESTION} (answer: {problem.answer})",
                    anchor=images["anchor"][i],
                    positive=images["positive"][i],
                    negative=images["negative"][i],
                    tokens=[
                        TokenView(
                            text=text,
                            gain=float(gain[i, t]),
                            anchor_entropy=float(entropies["anchor"][i, t]),
                            negative_entropy=float(entropies["negative"][i, t]),
                            selected=bool(selected[t]),
                            role=role,
                        )
                        for t, (text, role) in enumerate(
                            zip(tokens, task.token_roles(tokens), strict=True)
                        )
                    ],
                    correct=score.correct,
                    answer="none" if answer is None else str(answer),
                    reward=score.reward,
                    policy=policy,
                )
            )
        return samples


@dataclass(frozen=True)
class Views:
    """Three versions of some pictures, as the model sees them."""

    pixels: dict[str, torch.Tensor]  # anchor, positive, negative: [n * P, 1176]
    grid: torch.Tensor
    layout: PatchLayout

    def images(self, kind: str):
        """The pictures as PIL images."""
        from PIL import Image

        tensors = denormalize(
            unpatchify(self.pixels[kind], self.grid, self.layout), self.layout
        )
        return [
            Image.fromarray(
                image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
            )
            for image in tensors
        ]
