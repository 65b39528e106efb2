"""Which response tokens are perception tokens: scores and per-sequence selection.

Score and selection follow arXiv 2601.00501. Deviations from the published code:

1. The quota is ``ceil(top_fraction * candidates)``; verl's floors, with a minimum of 1.
2. A response's last token and one-token responses can be selected.
3. Sequences are told apart by id, so adjacent or interleaved ones never merge.

Letters: ``T`` packed response positions, ``V`` vocabulary, ``S`` distinct sequences.
"""

import torch
from torch import Tensor

from areal_cppo.core.divergence import log_probs

_GAIN_EPSILON = 1e-6  # of the published score; keeps 0 / 0 out of it
_ENTROPY_CHUNK = 256  # rows in fp32 at a time: 160 MB with 150k words, not 0.6 MB * T
# A product such as 0.07 * 100 = 7.000000000000001 must not round up to 8. Float error
# is relative, a few 1e-16; a fraction that someone typed is far coarser.
_CEIL_TOLERANCE = 1e-12


def token_entropy(
    logits: Tensor, temperature: float = 1.0, chunk_size: int = _ENTROPY_CHUNK
) -> Tensor:
    """Compute the entropy of each position's next-token distribution.

    Differentiable; under ``torch.no_grad`` it holds ``chunk_size`` rows in fp32.

    Args:
        logits: ``[T, V]``, any float dtype; -inf marks a word that cannot occur.
        temperature: what logits are divided by, > 0.
        chunk_size: rows reduced at a time, >= 1; no effect on the result.

    Returns:
        ``[T]`` fp32, in nats, in ``[0, log V]``.

    Raises:
        ValueError: ``logits`` is not 2-dimensional, or an argument is out of range.
    """
    if logits.dim() != 2:
        raise ValueError(
            f"logits: expected shape [T, V], found {list(logits.shape)}; "
            "flatten batch and time into T"
        )
    if chunk_size < 1:
        raise ValueError(
            f"chunk_size: expected an integer >= 1, found {chunk_size}; pass 1 or more"
        )
    chunks = []
    for rows in logits.split(chunk_size):
        log_p = log_probs(rows, temperature)
        chunks.append(-(log_p.exp() * log_p).sum(dim=-1))
    return torch.cat(chunks)


def entropy_gain(anchor_entropy: Tensor, negative_entropy: Tensor) -> Tensor:
    """Score how much each token depends on the image (arXiv 2601.00501).

    ``relu(H_negative - H_anchor) / (H_negative + 1e-6)``: the share of the entropy
    under the negative view that seeing the image removes.

    Args:
        anchor_entropy: ``[T]``, nats, >= 0, given the original image.
        negative_entropy: ``[T]``, nats, >= 0, given the negative view.

    Returns:
        ``[T]``, no unit, in ``[0, 1]``, 0 where entropy does not rise. Not a number
        where an entropy is not; such tokens are never selected.

    Raises:
        ValueError: the shapes differ.
    """
    if anchor_entropy.shape != negative_entropy.shape:
        raise ValueError(
            f"negative_entropy: expected shape {list(anchor_entropy.shape)} as of "
            f"anchor_entropy, found {list(negative_entropy.shape)}; "
            "compute both at the same positions"
        )
    rise = torch.relu(negative_entropy - anchor_entropy)
    return rise / (negative_entropy + _GAIN_EPSILON)


@torch.no_grad()
def select_perception_tokens(
    gain: Tensor, eligible: Tensor, sequence_ids: Tensor, top_fraction: float
) -> Tensor:
    """Mark each sequence's tokens of highest entropy gain.

    Per sequence, of its eligible tokens with finite gain > 0, the
    ``ceil(top_fraction * their number)`` of highest gain; ties go to the earlier token.

    Args:
        gain: ``[T]`` float, from :func:`entropy_gain`.
        eligible: ``[T]`` bool, True where a token may be selected.
        sequence_ids: ``[T]`` ints of any value and order; equal ids, one sequence.
        top_fraction: in (0, 1].

    Returns:
        ``[T]`` bool, without gradient.

    Raises:
        ValueError: shapes differ, ``eligible`` is not bool, ``top_fraction`` is out
            of range.
    """
    _check_selection(eligible, sequence_ids, top_fraction)
    if gain.shape != eligible.shape:
        raise ValueError(
            f"gain: expected shape {list(eligible.shape)} as of eligible, "
            f"found {list(gain.shape)}; score every packed position"
        )
    candidates = eligible & (gain > 0) & torch.isfinite(gain)
    return _top_per_sequence(gain, candidates, sequence_ids, top_fraction)


@torch.no_grad()
def select_random_tokens(
    eligible: Tensor,
    sequence_ids: Tensor,
    top_fraction: float,
    generator: torch.Generator,
) -> Tensor:
    """Mark random tokens of each sequence: a control for the choice by entropy gain.

    Not of the paper. Per sequence ``ceil(top_fraction * its eligible tokens)``, drawn
    without replacement; what is drawn depends on the generator and the packing.

    Args:
        eligible: ``[T]`` bool, True where a token may be selected.
        sequence_ids: ``[T]`` ints; equal ids, one sequence.
        top_fraction: in (0, 1].
        generator: source of all randomness, on any device.

    Returns:
        ``[T]`` bool.

    Raises:
        ValueError: as :func:`select_perception_tokens`.
    """
    _check_selection(eligible, sequence_ids, top_fraction)
    score = torch.rand(eligible.shape, generator=generator, device=generator.device)
    return _top_per_sequence(
        score.to(eligible.device), eligible, sequence_ids, top_fraction
    )


def _check_selection(
    eligible: Tensor, sequence_ids: Tensor, top_fraction: float
) -> None:
    """Refuse arguments that the two selections cannot work with."""
    if eligible.dtype != torch.bool or eligible.dim() != 1:
        raise ValueError(
            f"eligible: expected a bool tensor [T], found {eligible.dtype} "
            f"{list(eligible.shape)}; pass a mask such as advantages > 0"
        )
    if sequence_ids.shape != eligible.shape:
        raise ValueError(
            f"sequence_ids: expected shape {list(eligible.shape)} as of eligible, "
            f"found {list(sequence_ids.shape)}; give every packed position an id"
        )
    if not 0 < top_fraction <= 1:
        raise ValueError(
            f"top_fraction: expected a number in (0, 1], found {top_fraction}; "
            "the published value is 0.5"
        )


def _top_per_sequence(
    score: Tensor, candidates: Tensor, sequence_ids: Tensor, top_fraction: float
) -> Tensor:
    """Mark each sequence's best candidates, ``ceil(top_fraction * number)`` of them.

    Args:
        score: ``[T]`` float, finite at candidates.
        candidates: ``[T]`` bool.
        sequence_ids: ``[T]`` ints.
        top_fraction: in (0, 1].

    Returns:
        ``[T]`` bool.
    """
    selected = torch.zeros_like(candidates)
    positions = candidates.nonzero().squeeze(1)
    _, sequence, counts = torch.unique(
        sequence_ids[positions], return_inverse=True, return_counts=True
    )  # sequence: [candidates] in [0, S); counts: [S]
    # Two stable sorts: by score, then by sequence; ties keep the packed order.
    by_score = torch.sort(score[positions], descending=True, stable=True).indices
    by_sequence = torch.sort(sequence[by_score], stable=True).indices
    order = by_score[by_sequence]
    sequence = sequence[order]
    first = counts.cumsum(0) - counts  # where each sequence starts in `order`
    rank = torch.arange(len(order), device=order.device) - first[sequence]
    quota = _robust_ceil(counts, top_fraction)
    selected[positions[order[rank < quota[sequence]]]] = True
    return selected


def _robust_ceil(counts: Tensor, fraction: float) -> Tensor:
    """Compute ``ceil(fraction * counts)`` free of float error; int64, shape kept."""
    exact = counts.double() * fraction
    return torch.ceil(exact * (1 - _CEIL_TOLERANCE)).long()
