"""Generation within the trainer's process, as fresh or as stale as a study wants it.

A batch has the form in which `areal_cppo.rollout.workflow` hands groups over, and the
same responses are refused: those that hold a vision token.

Letters: `B` responses of a batch, `P` patches of a picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad

from areal_cppo.config.augmentation import UNLIKE
from areal_cppo.config.blocks import RewardConfig
from areal_cppo.rollout.augmentation import Augmenter
from areal_cppo.rollout.requests import VISION_TOKENS
from areal_cppo.step.batch import IMAGES
from areal_cppo.tasks import sampling
from areal_cppo.tasks.model import load_model
from areal_cppo.tasks.pixels import prompt_grids, split_pixels
from areal_cppo.tasks.problems import DrawnProblem
from areal_cppo.tasks.prompts import TaskPrompt
from areal_cppo.tasks.responses import IMAGE, WITH_WORDS
from areal_cppo.tasks.tokenizer import PAD_ID, prompt_ids

_IMAGE_ID = WITH_WORDS.index(IMAGE)
_VISION_IDS = torch.tensor([WITH_WORDS.index(token) for token in VISION_TOKENS])
_FEWEST = 2  # responses that can be compared


class Policies:
    """The weights of the last policy versions, and a model to generate with.

    Parameters
    ----------
    checkpoint
        Folder of the model.
    bound
        Generation is this many versions behind, or as many as there are.
    device
        Where the model generates.
    """

    def __init__(
        self, checkpoint: Path, bound: int, device: torch.device | None = None
    ):
        self.model = load_model(checkpoint).to(device)
        self.bound = bound
        self._weights: dict[int, dict[str, torch.Tensor]] = {}

    def remember(self, actor: FSDPPPOActor) -> None:
        """Keep the actor's weights as those of its version; the oldest are dropped."""
        version = actor.get_version()
        self._weights[version] = {
            name: whole(parameter).detach().clone()
            for name, parameter in actor.model.named_parameters()
        }
        for old in [v for v in self._weights if v < version - self.bound]:
            del self._weights[old]

    def behaviour(self, version: int) -> int:
        """Make `model` the policy that samples for `version`; returns its version."""
        sampling_version = max(0, version - self.bound)
        self.use(sampling_version)
        return sampling_version

    def use(self, version: int) -> None:
        """Make `model` the policy of a version that is still there."""
        self.model.load_state_dict(self._weights[version])


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter that FSDP may have cut into shards (of one rank: one)."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


@dataclass(frozen=True)
class StudyBatch:
    """What one step trains on: an item per group, and how many responses it lacks."""

    items: list[dict[str, Any]]
    refused: int


def generator(seed: int, step: int) -> torch.Generator:
    """Source of a step's draws: the same for all arms of a seed."""
    rng = random.Random(f"areal_cppo.studies/{seed}/{step}")
    return torch.Generator().manual_seed(rng.getrandbits(63))


def spell(ids: torch.Tensor, lengths: torch.Tensor) -> list[list[str]]:
    """Token strings of responses `[B, T]` of the given lengths `[B]`."""
    return [
        [WITH_WORDS[i] for i in row[:length]]
        for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Seen:
    """What responses are sampled from, if not the problems' own pictures.

    `pixels` `[sum of P, 1176]` are of pictures as they are seen, one a problem;
    `counts` says how many responses of each see it, the first of its group.
    """

    pixels: torch.Tensor
    counts: list[int]

    @classmethod
    def of(
        cls,
        augmenter: Augmenter,
        problems: Sequence[DrawnProblem],
        samples: int,
        version: int,
    ) -> Seen:
        """Pictures of problems with so many responses each."""
        shown, counts = [], []
        for problem in problems:
            images, count = augmenter.changed([problem.image], samples, version)
            shown.append(replace(problem, image=images[0]))
            counts.append(count)
        return cls(sampling.problem_pixels(shown), counts)


def sample_seen(
    draw: Callable[..., sampling.Sampled],
    pixels: torch.Tensor,
    seen: Seen | None,
    samples: int,
) -> sampling.Sampled:
    """`samples` responses to each picture of `pixels`, some of which are `seen`.

    `draw` is `sampling.sample` but for pixels and samples.
    """
    if seen is None:
        return draw(pixels, samples=samples)
    some = max(seen.counts)
    if some in (0, samples):  # whole groups: the others' pictures are their own
        return draw(seen.pixels, samples=samples)
    parts = draw(seen.pixels, samples=some), draw(pixels, samples=samples - some)
    width = max(part.ids.shape[1] for part in parts)
    fills = PAD_ID, 0.0, 0
    joined = []
    for columns, fill in zip(zip(*parts, strict=True), fills, strict=True):
        groups = []
        for column in columns:
            short = width - column.shape[1] if column.ndim > 1 else 0
            column = pad(column, (0, short), value=fill)
            groups.append(column.unflatten(0, (len(seen.counts), -1)))
        joined.append(torch.cat(groups, dim=1).flatten(0, 1))
    return sampling.Sampled(*joined)


def make_batch(
    problems: Sequence[DrawnProblem],
    pixels: torch.Tensor,
    sampled: sampling.Sampled,
    version: int,
    reward: RewardConfig,
    seen: Seen | None = None,
    train_on: str = "seen",
) -> StudyBatch:
    """Responses as the trainer takes them.

    Parameters
    ----------
    problems
        One per group.
    pixels
        float32 `[sum of P, 1176]`.
    sampled
        B responses, those of a problem neighbours.
    version
        That sampled them.
    reward
        What answer and format are worth.
    seen, train_on
        What some were sampled from, and whether they are trained on that or on the
        `original`.

    Returns
    -------
    StudyBatch
        A group that lost all but one of its responses is left out whole.
    """
    size = len(sampled.ids) // len(problems)
    texts = ["".join(tokens) for tokens in spell(sampled.ids, sampled.lengths)]
    refused = torch.isin(sampled.ids, _VISION_IDS).any(-1)
    prompts = [problem.prompt for problem in problems]
    pictures = split_pixels(pixels, prompts)
    shown = split_pixels(pixels if seen is None else seen.pixels, prompts)
    items = []
    for i, problem in enumerate(problems):
        rows = torch.arange(i * size, (i + 1) * size)
        rows = rows[~refused[rows]]
        if len(rows) < min(size, _FEWEST):
            continue
        scores = [problem.score(texts[row]) for row in rows.tolist()]
        worth = [
            reward.answer_weight * score.correct
            + reward.format_weight * score.format_ok
            for score in scores
        ]
        own = sampling.Sampled(*(part[rows] for part in sampled))
        item = _group(prompts[i], pictures[i], own, version, torch.tensor(worth))
        if seen is not None:
            changed = rows < i * size + seen.counts[i]
            if train_on == "original":
                item[UNLIKE] = (
                    changed[:, None].int().expand_as(item["versions"]).clone()
                )
            else:
                for row in changed.nonzero().flatten().tolist():
                    item[IMAGES][row]["pixel_values"] = shown[i]
        items.append(item)
    kept = sum(len(item["rewards"]) for item in items)
    return StudyBatch(items, len(sampled.ids) - kept)


def _group(
    prompt: TaskPrompt,
    picture: torch.Tensor,
    sampled: sampling.Sampled,
    version: int,
    rewards: torch.Tensor,
) -> dict[str, Any]:
    """AReaL's trajectory dict of one group, padded at the end to its longest row."""
    rows, width = len(sampled.ids), int(sampled.lengths.max())
    response = torch.arange(width) < sampled.lengths[:, None]
    asked = torch.tensor(prompt_ids(prompt))

    def joined(before: torch.Tensor | float, values: torch.Tensor) -> torch.Tensor:
        first = torch.as_tensor(before).expand(rows, len(asked)).to(values.dtype)
        return torch.cat([first, values[:, :width] * response], dim=1)

    ids = joined(asked, sampled.ids)
    images = {"pixel_values": picture, "image_grid_thw": prompt_grids([prompt])}
    loss_mask = joined(0, torch.ones_like(sampled.ids, dtype=torch.int32))
    versions = torch.full_like(sampled.ids, version, dtype=torch.int32)
    return {
        "input_ids": ids,
        "mm_token_type_ids": joined(asked == _IMAGE_ID, torch.zeros_like(sampled.ids)),
        "loss_mask": loss_mask,
        "logprobs": joined(0.0, sampled.logprobs),
        "versions": joined(-1, versions),
        "attention_mask": joined(1, torch.ones_like(sampled.ids)).bool(),
        IMAGES: [dict(images) for _ in range(rows)],
        "rewards": rewards.float(),
    }
