"""Responses to held-out problems, and what views do to each of their tokens.

Letters: `B` responses, `T` tokens of the longest, `N` response tokens of all of them,
one response after the other, `V` vocabulary, `P` patches of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, Qwen2_5_VLForConditionalGeneration

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import (
    PatchLayout,
    entropy_gain,
    parse_perturbations,
    perception_tokens,
    perturb_pixel_values,
    score_tokens,
    selection_seeds,
)
from areal_cppo.studies.rollout import spell
from areal_cppo.tasks import sampling
from areal_cppo.tasks.model import response_logits
from areal_cppo.tasks.pixels import image_grid, prompt_grids
from areal_cppo.tasks.problems import DrawnProblem, ReadingTask
from areal_cppo.tasks.prompts import TaskPrompt
from areal_cppo.tasks.responses import Score, token_roles

PERCEPTION = "R"  # the role of true perception tokens
TEMPLATE = "T"  # the role of tokens that no picture should change

_CHUNK = 256  # responses generated or scored at a time
_VIEW_SEED = 0  # of held-out views: the same for all runs


@dataclass(frozen=True)
class Responses:
    """One response per problem.

    Attributes
    ----------
    problems
        B of them.
    pixels
        float32 `[sum of P, 1176]`.
    ids
        int64 `[B, T]`; pads after a response's end.
    lengths
        int64 `[B]`.
    tokens
        B lists of token strings.
    scores
        B, what they are worth.
    roles
        `[N]` letters.
    """

    problems: Sequence[DrawnProblem]
    pixels: torch.Tensor
    ids: torch.Tensor
    lengths: torch.Tensor
    tokens: list[list[str]]
    scores: list[Score]
    roles: np.ndarray

    @cached_property
    def prompts(self) -> list[TaskPrompt]:
        """B of them."""
        return [problem.prompt for problem in self.problems]

    @cached_property
    def mask(self) -> torch.Tensor:
        """Bool `[B, T]`: tokens of responses."""
        return torch.arange(self.ids.shape[1]) < self.lengths[:, None]

    @property
    def labels(self) -> torch.Tensor:
        """The tokens themselves: int64 `[N]`."""
        return self.ids[self.mask]

    @property
    def sequences(self) -> torch.Tensor:
        """Which response each token is of: int64 `[N]`."""
        return torch.repeat_interleave(torch.arange(len(self.ids)), self.lengths)

    def first(self, count: int) -> Responses:
        """Those to the first `count` problems."""
        lengths = self.lengths[:count]
        return Responses(
            self.problems[:count],
            self.pixels[: _patches(self.prompts[:count])],
            self.ids[:count],
            lengths,
            self.tokens[:count],
            self.scores[:count],
            self.roles[: int(lengths.sum())],
        )


def _patches(prompts: Sequence[TaskPrompt]) -> int:
    """Of all pictures together."""
    return sum(prompt.n_patches for prompt in prompts)


def respond(
    model: Qwen2_5_VLForConditionalGeneration,
    problems: Sequence[DrawnProblem],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int = 0,
) -> Responses:
    """Let a policy answer held-out problems; temperature 0 is greedy."""
    source = torch.Generator().manual_seed(seed)
    pixels, parts = [], []
    for start in range(0, len(problems), _CHUNK):
        some = problems[start : start + _CHUNK]
        pixels.append(sampling.problem_pixels(some))
        parts.append(
            sampling.sample(
                model,
                pixels[-1],
                prompts=[problem.prompt for problem in some],
                temperature=temperature,
                generator=source,
                max_new_tokens=max_new_tokens,
            )
        )
    width = max(part.ids.shape[1] for part in parts)
    ids = torch.cat(
        [torch.nn.functional.pad(p.ids, (0, width - p.ids.shape[1])) for p in parts]
    )
    lengths = torch.cat([part.lengths for part in parts])
    tokens = spell(ids, lengths)
    scores = [
        problem.score("".join(row))
        for row, problem in zip(tokens, problems, strict=True)
    ]
    roles = [role for row in tokens for role in token_roles(row)]
    return Responses(
        problems, torch.cat(pixels), ids, lengths, tokens, scores, np.array(roles)
    )


@torch.no_grad()
def token_logits(
    model: Qwen2_5_VLForConditionalGeneration,
    responses: Responses,
    pixels: torch.Tensor,
) -> torch.Tensor:
    """Logits of each response token given other pictures of the same sizes, `[sum of
    P, 1176]`: `[N, V]`."""
    starts = range(0, len(responses.ids), _CHUNK)
    prompts = [responses.prompts[start : start + _CHUNK] for start in starts]
    parts = []
    for ids, mask, asked, some in zip(
        responses.ids.split(_CHUNK),
        responses.mask.split(_CHUNK),
        prompts,
        pixels.split([_patches(some) for some in prompts]),
        strict=True,
    ):
        parts.append(response_logits(model, some, ids, asked)[mask])
    return torch.cat(parts)


class StudyViews:
    """Makes views of held-out pictures, the same for every policy."""

    def __init__(self, task: ReadingTask):
        processor = AutoImageProcessor.from_pretrained(task.checkpoint, use_fast=False)
        self.layout = PatchLayout.from_image_processor(processor)

    def make(
        self,
        pixels: torch.Tensor,
        kind: str,
        specs: Sequence[Mapping[str, Any]],
        prompts: Sequence[TaskPrompt] | None = None,
    ) -> torch.Tensor:
        """Pictures `[sum of P, 1176]` through `positive` or `negative` views; their
        prompts are by default those of most tasks."""
        plain = image_grid(len(pixels) // TaskPrompt().n_patches)
        return perturb_pixel_values(
            pixels,
            prompt_grids(prompts) if prompts else plain,
            self.layout,
            parse_perturbations(specs),
            kind=kind,
            run_seed=_VIEW_SEED,
            policy_version=0,
        ).pixel_values


@dataclass(frozen=True)
class Measures:
    """What is known of each token under one negative view; float `[N]`, nats.

    Attributes
    ----------
    anchor_entropy, negative_entropy
        Of the predictions given the picture and its negative view.
    gain
        The published entropy gain, no unit.
    negative_divergence, positive_divergence
        KL(anchor || view).
    drop
        How much the token's log-probability falls under the negative view.
    selected
        bool `[N]`: what training would select.
    """

    anchor_entropy: np.ndarray
    negative_entropy: np.ndarray
    gain: np.ndarray
    negative_divergence: np.ndarray
    positive_divergence: np.ndarray
    drop: np.ndarray
    selected: np.ndarray


def measure(
    config: CPPOActorConfig,
    responses: Responses,
    anchor: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
) -> Measures:
    """Measure each token; the last three are logits `[N, V]`.

    What is selected is what training would select, were all tokens gated.
    """
    temperature = config.temperature
    scores = score_tokens(anchor, negative, temperature)
    labels, sequences = responses.labels, responses.sequences
    seeds = ()
    if config.cpl.selection == "random":
        seeds = selection_seeds(_VIEW_SEED, 0, labels, sequences)
    selected = perception_tokens(
        config.cpl,
        scores.anchor_entropy,
        scores.negative_entropy,
        torch.ones_like(labels, dtype=torch.bool),
        sequences,
        vocabulary=anchor.shape[1],
        seeds=seeds,
    )
    positive_scores = score_tokens(anchor, positive, temperature)
    drop = _logprobs(anchor, labels, temperature) - _logprobs(
        negative, labels, temperature
    )
    gain = entropy_gain(scores.anchor_entropy, scores.negative_entropy)
    return Measures(
        anchor_entropy=scores.anchor_entropy.double().numpy(),
        negative_entropy=scores.negative_entropy.double().numpy(),
        gain=gain.double().numpy(),
        negative_divergence=scores.divergence.double().numpy(),
        positive_divergence=positive_scores.divergence.double().numpy(),
        drop=drop.double().numpy(),
        selected=selected.numpy(),
    )


def _logprobs(
    logits: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(-1, labels[:, None]).squeeze(1)
