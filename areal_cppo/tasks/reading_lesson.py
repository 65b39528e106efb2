"""What a synthetic task's tiny model is taught before it is trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLProcessor

from areal_cppo.tasks.model import (
    TinyModel,
    embed_pictures,
    logits_from_images,
    tiny_config,
)
from areal_cppo.tasks.problems import LARGEST, DrawnProblem, ReadingTask
from areal_cppo.tasks.responses import CONTROL_TOKENS, EOS, N_IMAGE_TOKENS, WORDS
from areal_cppo.tasks.sampling import evaluate
from areal_cppo.tasks.tokenizer import build_processor, build_tokenizer, encode
from areal_cppo.tasks.warmup import (
    BATCH,
    CHECK_SEED,
    READING_WEIGHT,
    blind_some,
    build_with_head,
    imitation_loss,
    mild_some,
)

_BANNED = [i for i, token in enumerate(CONTROL_TOKENS) if token != EOS]
_SPLIT = (len(WORDS) * LARGEST, 3 * len(WORDS))  # of the head's classes with colours


@dataclass(frozen=True)
class ReadingLesson:
    """To read three values off a picture and to add them up (`warmup.Lesson`)."""

    task: ReadingTask
    first_check: ClassVar[int] = 150

    def build(self, seed: int) -> tuple[TinyModel, torch.nn.Linear]:
        """The head classifies the three values from all image tokens. Where colours
        are read each image token votes, wherever it stands: on the height of each
        colour's bar, and on the colour of each name."""
        config = tiny_config(self.task.vocabulary)
        if self.task.coloured:
            return build_with_head(seed, 1, sum(_SPLIT), config)
        return build_with_head(seed, N_IMAGE_TOKENS, 3 * LARGEST, config)

    def loss(
        self, model: TinyModel, head: torch.nn.Linear, seed: int, step: int
    ) -> tuple[torch.Tensor, float]:
        """Of a step's batch."""
        rng = random.Random(f"areal_cppo.{self.task.name}.warmup/{seed}/{step}")
        some = range(step * BATCH, (step + 1) * BATCH)
        problems = [self.task.make_problem(seed, i, "warm_up") for i in some]
        prompts = [problem.prompt for problem in problems]
        pictures = [np.array(problem.image) for problem in problems]
        if self.task.mild:
            pictures = mild_some(pictures, self.task.mild, rng)
        pixels = blind_some(pictures, rng)
        responses = [problem.reference_response(rng) for problem in problems]
        ids = encode(text for text, _ in responses)
        weights = torch.zeros(ids.shape)
        for row, (_, roles) in zip(weights, responses, strict=True):
            row[: len(roles)] = torch.tensor(
                [READING_WEIGHT if role == "R" else 1.0 for role in roles]
            )
        images = embed_pictures(model, pixels, prompts)
        logits = logits_from_images(model, images, ids, prompts)
        loss, imitation = imitation_loss(logits, ids, weights, _BANNED)
        values = torch.tensor([problem.values for problem in problems]) - 1
        if self.task.coloured:
            return loss + _colour_loss(head, images, problems, values), imitation
        value_logits = head(torch.stack(images).flatten(1)).unflatten(1, (3, LARGEST))
        return loss + cross_entropy(value_logits.mT, values), imitation

    def accuracy(self, model: TinyModel, n: int) -> float:
        """Greedy, on the first `n` held-out problems."""
        problems = [self.task.make_problem(CHECK_SEED, i, "held_out") for i in range(n)]
        return evaluate(model, problems)["accuracy"]

    def processor(self) -> Qwen2_5_VLProcessor:
        """The stock one with the task's vocabulary."""
        return build_processor(build_tokenizer(self.task.vocabulary))


def _colour_loss(
    head: torch.nn.Linear,
    images: Sequence[torch.Tensor],
    problems: Sequence[DrawnProblem],
    values: torch.Tensor,
) -> torch.Tensor:
    """Of the heights of the named colours' bars, and of the colour of each name."""
    pooled = torch.stack([head(image).sum(0) for image in images])
    heights, names = pooled.split(_SPLIT, dim=1)
    colours = torch.tensor([[WORDS.index(c) for c in p.colours] for p in problems])
    heights = heights.unflatten(1, (len(WORDS), LARGEST))
    own = heights.gather(1, colours[..., None].expand(-1, -1, LARGEST))
    name_logits = names.unflatten(1, (3, len(WORDS)))
    return cross_entropy(own.mT, values) + cross_entropy(name_logits.mT, colours)
