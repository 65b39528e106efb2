"""Weights for tokens that an older policy sampled.

Not of arXiv 2601.00501, whose code trains on stale tokens as if they were fresh. The
importance weight is that of AReaL's decoupled objective (arXiv 2505.24298), applied to
the Contrastive Perception Loss as well.

Letters: ``N`` selected tokens.
"""

import torch
from torch import Tensor

from areal_cppo.checks import FRACTION, Number, check_argument
from areal_cppo.core.cpl import StalenessConfig
from areal_cppo.core.shapes import check_shapes

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

    Parameters
    ----------
    proximal_logprobs
        ``[N]`` float, nats, under the policy at the update's start.
    behaviour_logprobs
        ``[N]`` float, nats, under the policy that sampled.
    versions
        ``[N]`` ints, the policy version that sampled each token.
    current_version
        The policy version at the update's start.
    cap
        Upper limit of the ratio, > 0; ``None`` for none.
    decay
        Factor per version of staleness, in [0, 1].
    max_staleness
        Versions of staleness beyond which a token counts 0, >= 0; ``None`` for no
        limit.

    Returns
    -------
    Tensor
        ``[N]`` fp32, >= 0, never infinite, without gradient.

    Raises
    ------
    ValueError
        Shapes differ or an argument is out of range.
    """
    check_shapes(
        "index all with the same selection",
        proximal_logprobs=(proximal_logprobs, "N"),
        behaviour_logprobs=(behaviour_logprobs, "N"),
        versions=(versions, "N"),
    )
    for name, value, check, fix in (
        ("cap", cap, Number(low=0, low_open=True, optional=True), "pass 5.0"),
        ("decay", decay, FRACTION, "pass 1.0 for none"),
        (
            "max_staleness",
            max_staleness,
            Number(low=0, integer=True, optional=True),
            "pass 0 to keep only on-policy tokens",
        ),
    ):
        check_argument(name, value, check, fix)
    log_ratio = proximal_logprobs.float() - behaviour_logprobs.float()
    weights = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    if cap is not None:
        weights = weights.clamp(max=cap)
    staleness = (current_version - versions).clamp(min=0)
    weights = weights * torch.pow(decay, staleness.float())
    if max_staleness is not None:
        weights = weights.masked_fill(staleness > max_staleness, 0.0)
    return weights


def token_weights(
    config: StalenessConfig,
    logprobs: Tensor,
    proximal_logprobs: Tensor | None,
    behaviour_logprobs: Tensor,
    versions: Tensor,
    current_version: int,
) -> Tensor:
    """Weigh tokens as `actor.cpl.staleness` says.

    Parameters
    ----------
    config
        How a token sampled by an older policy counts.
    logprobs
        ``[N]`` float, nats, the current policy's: used where there are no proximal ones
        (`prox_logp_method: loglinear`).
    proximal_logprobs
        ``[N]`` float, nats, at the update's start.
    behaviour_logprobs, versions, current_version
        As :func:`staleness_weights` takes them.

    Returns
    -------
    Tensor
        ``[N]`` fp32, without gradient.
    """
    proximal = logprobs.detach() if proximal_logprobs is None else proximal_logprobs
    if not config.importance_weight:
        proximal = behaviour_logprobs
    return staleness_weights(
        proximal,
        behaviour_logprobs,
        versions,
        current_version,
        cap=config.importance_cap,
        decay=config.decay,
        max_staleness=config.max_staleness,
    )
