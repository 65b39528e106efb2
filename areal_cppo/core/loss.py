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


def contrastive_perception_loss(
    positive_divergence: Tensor, negative_divergence: Tensor, tau: float
) -> Tensor:
    """Compute ``softplus((positive - negative) / tau)`` for each token.

    That is the two-way InfoNCE loss on -divergence / tau with the positive view as the
    match: low where the anchor agrees with the positive view and not with the negative.

    Args:
        positive_divergence: ``[N]`` float, nats, anchor from positive view.
        negative_divergence: ``[N]`` float, nats, anchor from negative view.
        tau: temperature of the contrast, > 0.

    Returns:
        ``[N]``, >= 0; log 2 where the divergences are equal.

    Raises:
        ValueError: shapes differ or ``tau`` is not > 0.
    """
    if positive_divergence.shape != negative_divergence.shape:
        raise ValueError(
            "negative_divergence: expected shape "
            f"{list(positive_divergence.shape)} as of positive_divergence, found "
            f"{list(negative_divergence.shape)}; take both at the same tokens"
        )
    if not tau > 0:
        raise ValueError(
            f"tau: expected a number > 0, found {tau}; the published value is 0.1"
        )
    return functional.softplus((positive_divergence - negative_divergence) / tau)


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

    Args:
        token_loss: ``[N]`` float, weights already applied.
        sequence_ids: ``[N]`` ints; equal ids, one sequence.
        aggregation: ``sequence`` or ``token``.
        normalizer: the global count, > 0 (anything if N is 0), a number or a
            0-dimensional tensor.

    Returns:
        A 0-dimensional tensor; with N = 0 a zero connected to ``token_loss``'s graph,
        so that every rank of a distributed run has a backward pass.

    Raises:
        ValueError: shapes differ, an unknown aggregation, a normalizer not > 0.
    """
    if aggregation not in ("sequence", "token"):
        raise ValueError(
            f"aggregation: expected one of sequence, token, found {aggregation!r}; "
            "set cpl.aggregation to one of them"
        )
    if token_loss.dim() != 1 or token_loss.shape != sequence_ids.shape:
        raise ValueError(
            "sequence_ids: expected the shape [N] of token_loss, found "
            f"{list(sequence_ids.shape)} beside {list(token_loss.shape)}; "
            "index both with the same selection"
        )
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
