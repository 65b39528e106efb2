"""What the policy loss's sum over tokens is divided by: `actor.loss_divisor`.

AReaL's policy loss is the mean over the tokens of the global batch (as in DAPO, arXiv
2503.14476). In Dr. GRPO (arXiv 2503.20783, its code) the sum over a response's tokens
is divided by the most tokens that one may have, the same for all, and the mean is over
responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def count_responses(data: Mapping[str, Any]) -> Tensor:
    """Responses of a packed micro-batch that have a token with a loss: int64.

    `data` has `cu_seqlens` `[S + 1]` and `loss_mask` `[T]`.
    """
    before = pad(data["loss_mask"].bool().long().cumsum(0), (1, 0))
    return (before[data["cu_seqlens"].long()].diff() > 0).sum()


def over_longest(
    loss_fn: Callable[..., Tensor], longest: int, *args: Any, **kwargs: Any
) -> Tensor:
    """AReaL's mean over a micro-batch's tokens as that over its responses.

    Each response's sum is divided by `longest`, tokens. The last of `args` is the
    packed micro-batch; its weight in the global batch's mean is `count_responses`.
    """
    mean, data = loss_fn(*args, **kwargs), args[-1]
    tokens = data["loss_mask"].count_nonzero()
    return mean * (tokens / torch.clamp(count_responses(data), min=1) / longest)
