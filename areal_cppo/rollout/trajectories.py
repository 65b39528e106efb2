"""Responses as AReaL's trainer takes them: a dict of padded tensors per group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from areal.api import ModelResponse
from areal.utils.data import concat_padded_tensors

from areal_cppo.config.augmentation import UNLIKE
from areal_cppo.config.blocks import SAME_AS
from areal_cppo.rollout.requests import Prompt


def response_trajectory(
    prompt: Prompt, response: ModelResponse, reward: float
) -> dict[str, Any]:
    """AReaL's dict of one response; `P` prompt tokens and `R` of the response.

    `input_ids`, `mm_token_type_ids` int64, `loss_mask`, `versions` int32 (-1 in the
    prompt), `logprobs` fp32 (nats, 0 in the prompt), `attention_mask` bool: all
    `[1, P + R]`; `rewards` fp32 `[1]`; `multi_modal_input` a list of one dict, empty
    until the group is `joined`.
    """
    n_prompt, n_response = response.input_len, response.output_len

    def row(values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([values], dtype=dtype)

    return {
        "input_ids": row(response.input_tokens + response.output_tokens, torch.long),
        "mm_token_type_ids": row(
            prompt.mm_token_type_ids + [0] * n_response, torch.long
        ),
        "loss_mask": row([0] * n_prompt + [1] * n_response, torch.int32),
        "logprobs": row([0.0] * n_prompt + response.output_logprobs, torch.float32),
        "versions": row([-1] * n_prompt + response.output_versions, torch.int32),
        "attention_mask": row([True] * (n_prompt + n_response), torch.bool),
        "multi_modal_input": [{}],
        "rewards": torch.tensor([reward], dtype=torch.float32),
    }


def joined(
    group: Sequence[tuple[Prompt, dict[str, Any]]], original: Prompt | None = None
) -> dict[str, Any]:
    """The responses to a problem as one trajectory dict, with their images.

    Of those that have the same images the first carries them, the others say so.

    Parameters
    ----------
    group
        What each was sampled from, and its trajectory.
    original
        What all are trained on; `UNLIKE` then says which were sampled from something
        else. None: each on what it was sampled from.
    """
    firsts: dict[int, int] = {}
    for i, (seen, trajectory) in enumerate(group):
        prompt = seen if original is None else original
        if original is not None:
            unlike = torch.full_like(trajectory["versions"], seen is not original)
            trajectory[UNLIKE] = unlike
        first = firsts.setdefault(id(prompt), i)
        if prompt.tensors:
            own = prompt.tensors if first == i else {SAME_AS: first}
            trajectory["multi_modal_input"][0].update(own)
    return concat_padded_tensors([trajectory for _, trajectory in group])
