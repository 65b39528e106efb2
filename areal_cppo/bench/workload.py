"""The batch that train steps are measured on: random, of a given size and seed.

What costs time is how much there is, not what: tokens and pixels are noise. An item is
a group, as AReaL's workflow returns it: `n` samples of one prompt and one image, padded
to `[n, S]`. Each sample has its own copy of the image, as the workflow makes them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch

from areal_cppo.core import PatchLayout, patchify
from areal_cppo.core.checks import Number, check_fields, setting
from areal_cppo.errors import UserError
from areal_cppo.tasks.triangles.task import VOCABULARY

SPREAD = 0.25  # a response's length is the mean, up to a quarter more or less
TOKEN_SIDE = 28  # pixels, the side of the square that becomes one image token


@dataclass(frozen=True)
class Workload:
    """Size of a batch; the defaults are Geometry3K's.

    Raises
    ------
    UserError
        A value is out of range, or two of them do not go together.
    """

    image: int = setting(
        448, Number(low=TOKEN_SIDE, integer=True), "side of an image, pixels"
    )
    prompt: int = setting(150, Number(low=1, integer=True), "text tokens of a prompt")
    response: int = setting(
        400, Number(low=2, integer=True), "tokens of a response, on average"
    )
    group: int = setting(8, Number(low=1, integer=True), "responses a prompt")
    groups: int = setting(2, Number(low=1, integer=True), "prompts a step")
    positive: float = setting(
        0.4, Number(low=0, high=1), "share of responses with a positive advantage"
    )
    max_tokens: int = setting(
        4096, Number(low=1, integer=True), "tokens a micro-batch at most"
    )
    seed: int = setting(1, Number(low=0, integer=True), "of tokens, pixels and weights")

    def __post_init__(self) -> None:
        try:
            check_fields(self, "--")
        except ValueError as error:
            raise UserError(str(error).replace("max_tokens", "max-tokens")) from error
        if self.image % TOKEN_SIDE:
            near = self.image // TOKEN_SIDE * TOKEN_SIDE
            raise UserError(
                f"--image: expected a multiple of {TOKEN_SIDE} pixels, found "
                f"{self.image}; set {near} or {near + TOKEN_SIDE}"
            )
        most = (self.group - 1) / self.group
        if self.positive > most:
            raise UserError(
                f"--positive: expected at most {most:.3g} with --group {self.group} (a "
                "group of right responses only has no advantage), found "
                f"{self.positive:g}; set less, or a larger --group"
            )
        longest = self.prompt_tokens + int(self.response * (1 + SPREAD))
        if longest > self.max_tokens:
            raise UserError(
                f"--max-tokens: expected at least {longest}, the longest sequence, "
                f"found {self.max_tokens}; set more"
            )

    @property
    def samples(self) -> int:
        """Responses of the batch."""
        return self.group * self.groups

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return (self.image // TOKEN_SIDE) ** 2

    @property
    def prompt_tokens(self) -> int:
        """Tokens before a response: the image between its two marks, and the text."""
        return self.image_tokens + 2 + self.prompt

    def response_lengths(self) -> list[int]:
        """Tokens of each response, in the batch's order."""
        draw = random.Random(self.seed)
        low, high = (int(self.response * (1 + s)) for s in (-SPREAD, SPREAD))
        return [draw.randint(low, high) for _ in range(self.samples)]

    def positives(self) -> list[int]:
        """Responses of each group with a positive advantage: at least the share asked
        for, as even as can be."""
        total = math.ceil(self.positive * self.samples - 1e-9)
        return [
            total * (i + 1) // self.groups - total * i // self.groups
            for i in range(self.groups)
        ]


def make_batch(workload: Workload, config: Any, layout: PatchLayout) -> list[dict]:
    """The batch, an item a group.

    Parameters
    ----------
    workload
        How much of everything.
    config
        The model's: its vocabulary and the ids of its special tokens.
    layout
        Of its images.

    Returns
    -------
    list
        AReaL's trajectories: `input_ids`, `loss_mask`, `rewards`, ...; `logprobs` are
        zeros, to be filled with those of the policy itself.
    """
    from areal.utils.data import concat_padded_tensors

    generator = torch.Generator().manual_seed(workload.seed)
    special, vocabulary = len(VOCABULARY), config.text_config.vocab_size

    def text(n: int) -> torch.Tensor:
        return torch.randint(special, vocabulary, (n,), generator=generator)

    lengths = iter(workload.response_lengths())
    items = []
    for positives in workload.positives():
        marks = [config.vision_start_token_id, config.vision_end_token_id]
        image = torch.full((workload.image_tokens,), config.image_token_id)
        prompt = torch.tensor(marks[:1] + image.tolist() + marks[1:])
        prompt = torch.cat([prompt, text(workload.prompt)])
        side = workload.image
        pixels = patchify([torch.randn(3, side, side, generator=generator)], layout)
        samples = [
            _sample(prompt, text(next(lengths)), pixels, float(i < positives), config)
            for i in range(workload.group)
        ]
        items.append(concat_padded_tensors(samples))
    return items


def _sample(prompt, response, pixels, reward: float, config) -> dict[str, Any]:
    """One response, `[1, S]`."""
    ids = torch.cat([prompt, response])
    is_response = torch.arange(len(ids)) >= len(prompt)
    side = int(len(pixels) ** 0.5)
    return {
        "input_ids": ids[None],
        "mm_token_type_ids": (ids == config.image_token_id).long()[None],
        "loss_mask": is_response.int()[None],
        "logprobs": torch.zeros(1, len(ids)),
        "versions": torch.where(is_response, 0, -1).int()[None],
        "attention_mask": torch.ones(1, len(ids), dtype=torch.bool),
        "rewards": torch.tensor([reward]),
        "multi_modal_input": [
            {
                "pixel_values": pixels.clone(),
                "image_grid_thw": torch.tensor([[1, side, side]]),
            }
        ],
    }
