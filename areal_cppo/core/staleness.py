"""Weights for tokens that an older policy sampled.

Not of arXiv 2601.00501, whose code trains on stale tokens as if they were fresh. The
importance weight is that of AReaL's decoupled objective (arXiv 2505.24298), applied to
the Contrastive Perception Loss as well.

Letters: ``N`` selected tokens.
"""

import torch
from torch import Tensor

# exp() cannot overflow: without a cap the largest weight is exp(20) = 5e8.
_MAX_LOG_RATIO = 20.0


@torch.no_grad()
def staleness_weights(
    proximal_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    versions: Tensor,
    current_version: int,
    cap: float | None = None,
    decay: float = 1.0,
    max_staleness: int | None = None,
) -> Tensor:
    """Weigh each token by how likely the update's first policy would sample it.

    ``min(pi_proximal / pi_behaviour, cap) * decay ** staleness``, and 0 where
    ``staleness > max_staleness``; staleness is ``current_version - versions``, at least
    0. A token with equal log-probabilities and the current version has weight exactly
    1 (for a cap of 1 or more).

    Args:
        proximal_logprobs: ``[N]`` float, nats, under the policy at the update's start.
        behaviour_logprobs: ``[N]`` float, nats, under the policy that sampled.
        versions: ``[N]`` ints, the policy version that sampled each token.
        current_version: the policy version at the update's start.
        cap: upper limit of the ratio, > 0; ``None`` for none.
        decay: factor per version of staleness, in [0, 1].
        max_staleness: versions of staleness beyond which a token counts 0, >= 0;
            ``None`` for no limit.

    Returns:
        ``[N]`` fp32, >= 0, never infinite, without gradient.

    Raises:
        ValueError: shapes differ or an argument is out of range.
    """
    for name, tensor in (
        ("behaviour_logprobs", behaviour_logprobs),
        ("versions", versions),
    ):
        if tensor.shape != proximal_logprobs.shape:
            raise ValueError(
                f"{name}: expected shape {list(proximal_logprobs.shape)} as of "
                f"proximal_logprobs, found {list(tensor.shape)}; "
                "index all with the same selection"
            )
    if cap is not None and not cap > 0:
        raise ValueError(f"cap: expected a number > 0 or None, found {cap}; pass 5.0")
    if not 0 <= decay <= 1:
        raise ValueError(
            f"decay: expected a number in [0, 1], found {decay}; pass 1.0 for none"
        )
    if max_staleness is not None and max_staleness < 0:
        raise ValueError(
            f"max_staleness: expected an integer >= 0 or None, found {max_staleness}; "
            "pass 0 to keep only on-policy tokens"
        )
    log_ratio = proximal_logprobs.float() - behaviour_logprobs.float()
    weights = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    if cap is not None:
        weights = weights.clamp(max=cap)
    staleness = (current_version - versions).clamp(min=0)
    weights = weights * torch.pow(decay, staleness.float())
    if max_staleness is not None:
        weights = weights.masked_fill(staleness > max_staleness, 0.0)
    return weights
