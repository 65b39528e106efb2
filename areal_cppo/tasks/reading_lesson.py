"""What a synthetic task's tiny model is taught before it is trained."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLProcessor

from areal_cppo.tasks.model import TinyModel, embed_images, logits_from_images
from areal_cppo.tasks.pixels import stack_images
from areal_cppo.tasks.problems import LARGEST, ReadingTask
from areal_cppo.tasks.responses import CONTROL_TOKENS, EOS, N_IMAGE_TOKENS
from areal_cppo.tasks.sampling import evaluate
from areal_cppo.tasks.tokenizer import build_processor, encode
from areal_cppo.tasks.warmup import (
    BATCH,
    CHECK_SEED,
    READING_WEIGHT,
    blind_some,
    build_with_head,
    imitation_loss,
)

_BANNED = [i for i, token in enumerate(CONTROL_TOKENS) if token != EOS]


@dataclass(frozen=True)
class ReadingLesson:
    """To read three values off a picture and to add them up (`warmup.Lesson`)."""

    task: ReadingTask
    first_check: ClassVar[int] = 150

    def build(self, seed: int) -> tuple[TinyModel, torch.nn.Linear]:
        """The head classifies the three values from all image tokens."""
        return build_with_head(seed, N_IMAGE_TOKENS, 3 * LARGEST)

    def loss(
        self, model: TinyModel, head: torch.nn.Linear, seed: int, step: int
    ) -> tuple[torch.Tensor, float]:
        """Of a step's batch."""
        rng = random.Random(f"areal_cppo.{self.task.name}.warmup/{seed}/{step}")
        some = range(step * BATCH, (step + 1) * BATCH)
        problems = [self.task.make_problem(seed, i, "warm_up") for i in some]
        pixels = blind_some(stack_images([p.image for p in problems]), rng)
        responses = [problem.reference_response(rng) for problem in problems]
        ids = encode(text for text, _ in responses)
        weights = torch.zeros(ids.shape)
        for row, (_, roles) in zip(weights, responses, strict=True):
            row[: len(roles)] = torch.tensor(
                [READING_WEIGHT if role == "R" else 1.0 for role in roles]
            )
        images = embed_images(model, pixels)
        logits = logits_from_images(model, images, ids)
        loss, imitation = imitation_loss(logits, ids, weights, _BANNED)
        value_logits = head(images.flatten(1)).unflatten(1, (3, LARGEST))
        values = torch.tensor([problem.values for problem in problems]) - 1
        return loss + cross_entropy(value_logits.mT, values), imitation

    def accuracy(self, model: TinyModel, n: int) -> float:
        """Greedy, on the first `n` held-out problems."""
        problems = [self.task.make_problem(CHECK_SEED, i, "held_out") for i in range(n)]
        return evaluate(model, problems)["accuracy"]

    def processor(self) -> Qwen2_5_VLProcessor:
        """That of all synthetic tasks."""
        return build_processor()
