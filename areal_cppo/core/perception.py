"""CPPO's two steps on packed tokens: select perception tokens, contrast views on them.

Of arXiv 2601.00501; how each deviates from it says the module it comes from
(`selection`, `staleness`, `loss`).

Letters: ``T`` packed response positions, ``G`` gated ones, ``N`` selected tokens, ``S``
sequences.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from areal_cppo.core.cpl import CPLConfig
from areal_cppo.core.loss import aggregate_token_loss, contrastive_perception_loss
from areal_cppo.core.scores import entropy_gain, entropy_rise, rise_eligible
from areal_cppo.core.selection import select_perception_tokens, select_random_tokens
from areal_cppo.core.views import image_digest, view_seed


@torch.no_grad()
def perception_tokens(
    config: CPLConfig,
    anchor_entropy: Tensor,
    negative_entropy: Tensor,
    gate: Tensor,
    sequence_ids: Tensor,
    *,
    vocabulary: int,
    seeds: Sequence[int] = (),
) -> Tensor:
    """Select perception tokens by `cpl.selection` among the gated ones.

    Parameters
    ----------
    config
        `actor.cpl`.
    anchor_entropy, negative_entropy
        ``[G]`` float, nats, where ``gate`` is true.
    gate
        ``[T]`` bool: tokens that may be selected.
    sequence_ids
        ``[T]`` ints; equal ids, one sequence.
    vocabulary
        Number of words.
    seeds
        For selection `random`, as `select_random_tokens` takes them
        (`selection_seeds`); the others need none.

    Returns
    -------
    Tensor
        ``[G]`` bool.

    Raises
    ------
    ValueError
        Shapes differ.
    """
    pair = anchor_entropy, negative_entropy
    eligible = rise_eligible(*pair, config.min_gain, vocabulary=vocabulary)
    if config.selection == "all":
        return torch.ones_like(eligible)
    score = entropy_rise if config.selection == "entropy_rise" else entropy_gain
    chosen = select_perception_tokens(
        score(*pair), eligible, sequence_ids[gate], config.top_fraction, config.quota
    )
    if config.selection != "random":
        return chosen
    like = gate.clone()
    like[gate] = chosen
    return select_random_tokens(gate, sequence_ids, like, seeds)[gate]


def selection_seeds(
    run_seed: int, version: int, tokens: Tensor, sequence_ids: Tensor
) -> list[int]:
    """Derive a seed per sequence for the control `selection: random`.

    Parameters
    ----------
    run_seed, version
        Of the run, and the policy version.
    tokens
        ``[T]`` ints; a sequence's seed depends on its own alone.
    sequence_ids
        ``[T]`` ints in ``[0, S)``, ascending.

    Returns
    -------
    list
        S ints, as `view_seed` returns them.
    """
    lengths = torch.bincount(sequence_ids).tolist()
    return [
        view_seed(run_seed, version, image_digest(own), "tokens")
        for own in tokens.split(lengths)
    ]


class PerceptionLoss(NamedTuple):
    """CPL of some tokens.

    Attributes
    ----------
    loss
        A scalar with gradient, without `cpl.coef`.
    token_loss
        ``[N]`` fp32, before its weight; no gradient.
    weights
        ``[N]`` fp32.
    """

    loss: Tensor
    token_loss: Tensor
    weights: Tensor


def perception_loss(
    config: CPLConfig,
    positive_divergence: Tensor,
    negative_divergence: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    normalizer: int,
    counts: Tensor | float = 1.0,
) -> PerceptionLoss:
    """Compute these tokens' share of the global batch's CPL.

    Parameters
    ----------
    config
        `actor.cpl`.
    positive_divergence, negative_divergence
        ``[N]`` float, nats: each view's from the anchor.
    weights
        ``[N]`` fp32, from `token_weights`.
    sequence_ids
        ``[N]`` ints; equal ids, one sequence.
    normalizer
        The number of gated responses (aggregation `sequence`) or of perception tokens
        (`token`) in the whole global batch.
    counts
        ``[N]`` fp32: how often a token's response counts, from `draw_responses`.

    Returns
    -------
    PerceptionLoss
        With N = 0 its loss is a zero that still leads back through every pass that has
        a graph, so that all ranks have the same backward pass.
    """
    token_loss = contrastive_perception_loss(
        positive_divergence, negative_divergence, config.tau
    )
    loss = aggregate_token_loss(
        token_loss * weights * counts, sequence_ids, config.aggregation, normalizer
    )
    return PerceptionLoss(loss, token_loss.detach(), weights)
