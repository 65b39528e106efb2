"""The Contrastive Perception Loss and its sum over a global batch.

arXiv 2601.00501. Deviation: the published AReaL code averages over one micro-batch's
tokens, so that its gradient depends on packing; here every sum is divided by a count
of the whole global batch, so that partial sums add up to the same loss however the
batch is split.

Letters: ``N`` selected tokens.
"""

import torch
from torch import Tensor
from torch.nn import functional

from areal_cppo.checks import POSITIVE, Choice, check_argument
from areal_cppo.core.cpl import AGGREGATIONS
from areal_cppo.core.precision import single
from areal_cppo.core.shapes import check_shapes


def contrastive_perception_loss(
    positive_divergence: Tensor, negative_divergence: Tensor, tau: float
) -> Tensor:
    """Compute ``softplus((positive - negative) / tau)`` for each token.

    That is the two-way InfoNCE loss on -divergence / tau with the positive view as the
    match: low where the anchor agrees with the positive view and not with the negative.

    Parameters
    ----------
    positive_divergence
        ``[N]`` float, nats, anchor from positive view.
    negative_divergence
        ``[N]`` float, nats, anchor from negative view.
    tau
        Temperature of the contrast, > 0.

    Returns
    -------
    Tensor
        ``[N]``, at least fp32, >= 0; log 2 where the divergences are equal.

    Raises
    ------
    ValueError
        Shapes differ or ``tau`` is not > 0.
    """
    check_shapes(
        "take both at the same tokens",
        positive_divergence=(positive_divergence, "N"),
        negative_divergence=(negative_divergence, "N"),
    )
    check_argument("tau", tau, POSITIVE, "the published value is 0.1")
    difference = single(positive_divergence) - single(negative_divergence)
    return functional.softplus(difference / tau)


def aggregate_token_loss(
    token_loss: Tensor,
    sequence_ids: Tensor,
    aggregation: str,
    normalizer: float | Tensor,
) -> Tensor:
    """Sum token losses into this micro-batch's share of the global batch's loss.

    ``sequence``: the sum over sequences of the mean over their tokens, divided by
    ``normalizer``, the number of gated responses of the global batch. ``token``: the
    sum over tokens divided by ``normalizer``, the global batch's number of selected
    tokens. A sequence's tokens must all be in one call. Tokens of weight 0 still count
    in their sequence's mean.

    Parameters
    ----------
    token_loss
        ``[N]`` float, weights already applied.
    sequence_ids
        ``[N]`` ints; equal ids, one sequence.
    aggregation
        ``sequence`` or ``token``.
    normalizer
        The global count, > 0 (anything if N is 0), a number or a 0-dimensional tensor.

    Returns
    -------
    Tensor
        A 0-dimensional tensor, at least fp32; with N = 0 a zero connected to
        ``token_loss``'s graph, so that every rank of a distributed run has a backward
        pass.

    Raises
    ------
    ValueError
        Shapes differ, an unknown aggregation, a normalizer not > 0.
    """
    check_argument(
        "aggregation",
        aggregation,
        Choice(AGGREGATIONS),
        "set cpl.aggregation to one of them",
    )
    check_shapes(
        "index both with the same selection",
        token_loss=(token_loss, "N"),
        sequence_ids=(sequence_ids, "N"),
    )
    token_loss = single(token_loss)
    if len(token_loss) == 0:
        return token_loss.sum()
    if not normalizer > 0:
        raise ValueError(
            f"normalizer: expected a count > 0, found {float(normalizer):g}; "
            "count over the whole global batch, this micro-batch included"
        )
    if aggregation == "sequence":
        _, sequence, counts = torch.unique(
            sequence_ids, return_inverse=True, return_counts=True
        )
        token_loss = token_loss / counts[sequence]
    return token_loss.sum() / normalizer
