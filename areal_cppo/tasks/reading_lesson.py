"""What a synthetic task's tiny model is taught before it is trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import Qwen2_5_VLProcessor

from areal_cppo.tasks.model import (
    TinyModel,
    embed_pictures,
    logits_from_images,
    tiny_config,
)
from areal_cppo.tasks.pictures import MERGE, PATCH
from areal_cppo.tasks.problems import LARGEST, DrawnProblem, ReadingTask
from areal_cppo.tasks.responses import (
    CONTROL_TOKENS,
    EOS,
    N_IMAGE_TOKENS,
    WORDS,
    split_tokens,
)
from areal_cppo.tasks.sampling import answer
from areal_cppo.tasks.tokenizer import build_processor, build_tokenizer, encode
from areal_cppo.tasks.warmup import (
    BATCH,
    CHECK_SEED,
    READING_WEIGHT,
    TARGET_ACCURACY,
    blind_some,
    build_with_head,
    imitation_loss,
    mild_some,
)

_BANNED = [i for i, token in enumerate(CONTROL_TOKENS) if token != EOS]
_CELL = MERGE * PATCH  # pixels, the side of an image token
_N_BAR_SIGNS = len(WORDS) * LARGEST  # a bar of some colour ends in some height
_N_SIGNS = _N_BAR_SIGNS + 3 * len(WORDS)  # or a name has some colour
_TARGET_SEEN = 0.25  # of answers for which all was read right
_RARE = -4.0  # what the head says of a sign before it has learnt: it isn't there


@dataclass(frozen=True)
class ReadingLesson:
    """To read three values off a picture and to add them up (`warmup.Lesson`)."""

    task: ReadingTask
    scale: int = 1  # of the model (`tiny_config`)
    first_check: ClassVar[int] = 150

    def build(self, seed: int) -> tuple[TinyModel, torch.nn.Linear]:
        """The head classifies the three values from all image tokens; where colours
        are read, it says of each image token what it shows (`_sign_loss`)."""
        config = tiny_config(self.task.vocabulary, scale=self.scale)
        if not self.task.coloured:
            return build_with_head(seed, N_IMAGE_TOKENS, 3 * LARGEST, config)
        model, head = build_with_head(seed, 1, _N_SIGNS, config)
        torch.nn.init.constant_(head.bias, _RARE)
        return model, head

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
        for row, (text, roles) in zip(weights, responses, strict=True):
            tokens = zip(split_tokens(text), roles, strict=True)
            row[: len(roles)] = torch.tensor(
                # A colour that is looked up in what was read is as hard to learn.
                [
                    READING_WEIGHT if role == "R" or token in WORDS else 1.0
                    for token, role in tokens
                ]
            )
        images = embed_pictures(model, pixels, prompts)
        logits = logits_from_images(model, images, ids, prompts)
        loss, imitation = imitation_loss(logits, ids, weights, _BANNED)
        values = torch.tensor([problem.values for problem in problems]) - 1
        if self.task.coloured:
            return loss + _sign_loss(head, images, problems), imitation
        said = head(torch.stack(images).flatten(1)).cpu().unflatten(1, (3, LARGEST))
        return loss + cross_entropy(said.mT, values), imitation

    @property
    def target_accuracy(self) -> float:
        """At which a model is ready to be trained."""
        return _TARGET_SEEN if self.task.coloured else TARGET_ACCURACY

    def accuracy(self, model: TinyModel, n: int) -> float:
        """Greedy, on the first `n` held-out problems. Where colours are read, an answer
        counts only if all was read right: sum and largest are often right by luck, of
        bars that are taken for each other."""
        problems = [self.task.make_problem(CHECK_SEED, i, "held_out") for i in range(n)]
        scores = answer(model, problems)
        if self.task.coloured:
            return sum(s.correct and s.values_read == 1 for s in scores) / n
        return sum(s.correct for s in scores) / n

    def processor(self) -> Qwen2_5_VLProcessor:
        """The stock one with the task's vocabulary."""
        return build_processor(build_tokenizer(self.task.vocabulary))


def _sign_loss(
    head: torch.nn.Linear,
    images: Sequence[torch.Tensor],
    problems: Sequence[DrawnProblem],
) -> torch.Tensor:
    """Of saying of each image token which names in which colours stand there, and which
    colours' bars end there in which height; summed, a share for each that there is."""
    signs = [torch.zeros(len(image), _N_SIGNS) for image in images]
    for own, problem in zip(signs, problems, strict=True):
        for i, (x, y) in enumerate(problem.places):
            cell = int(y // _CELL) * (problem.prompt.columns // MERGE) + int(x // _CELL)
            colour = WORDS.index(problem.colours[i % 3])
            place = _N_BAR_SIGNS + i * len(WORDS) + colour
            if i >= 3:
                place = colour * LARGEST + problem.values[i - 3] - 1
            own[cell, place] = 1
    truth = torch.cat(signs)
    said = head(torch.cat(list(images))).cpu()
    each = binary_cross_entropy_with_logits(said, truth, reduction="sum")
    return each / truth.sum()
