"""Which response tokens are perception tokens: the selection, sequence by sequence.

It follows arXiv 2601.00501. Deviations from the published code:

1. The quota is ``ceil(top_fraction * candidates)``, as in the AReaL fork; verl's
   floors, with a minimum of 1, which ``quota="floor"`` does.
2. A response's last token and one-token responses can be selected.
3. Sequences are told apart by id, so adjacent or interleaved ones never merge.
4. Exactly the quota is selected; verl takes all tokens that tie with its last one.
5. Only eligible tokens are ranked; verl ranks the whole response and applies the gate
   afterwards, which is the same where advantages are one number per response.

Letters: ``T`` packed response positions, ``S`` distinct sequences.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from areal_cppo.checks import POSITIVE_FRACTION, Choice, check_argument
from areal_cppo.core.cpl import QUOTAS
from areal_cppo.core.shapes import check_shapes

# A product such as 0.07 * 100 = 7.000000000000001 must not round up to 8, nor one such
# as 0.29 * 100 = 28.999999999999996 down to 28. Float error is relative, a few 1e-16; a
# fraction that someone typed is far coarser.
_QUOTA_TOLERANCE = 1e-12


@torch.no_grad()
def select_perception_tokens(
    gain: Tensor,
    eligible: Tensor,
    sequence_ids: Tensor,
    top_fraction: float,
    quota: str = "ceil",
) -> Tensor:
    """Mark each sequence's tokens of highest entropy gain.

    Per sequence, of its eligible tokens with finite gain > 0, the
    ``ceil(top_fraction * their number)`` of highest gain (``floor``, but at least 1, of
    any, with ``quota="floor"``); ties go to the earlier token.

    Parameters
    ----------
    gain
        ``[T]`` float, from :func:`entropy_gain`.
    eligible
        ``[T]`` bool, True where a token may be selected.
    sequence_ids
        ``[T]`` ints of any value and order; equal ids, one sequence.
    top_fraction
        In (0, 1].
    quota
        ``ceil`` or ``floor``.

    Returns
    -------
    Tensor
        ``[T]`` bool, without gradient.

    Raises
    ------
    ValueError
        Shapes differ, ``eligible`` is not bool, ``top_fraction`` is out of range, an
        unknown quota.
    """
    _check_mask("eligible", eligible, "pass a mask such as advantages > 0")
    check_shapes(
        "give every packed position a gain and an id",
        eligible=(eligible, "T"),
        sequence_ids=(sequence_ids, "T"),
        gain=(gain, "T"),
    )
    check_argument(
        "top_fraction", top_fraction, POSITIVE_FRACTION, "the published value is 0.5"
    )
    check_argument("quota", quota, Choice(QUOTAS), "set cpl.quota to one of them")
    candidates = eligible & (gain > 0) & torch.isfinite(gain)
    ids, sequence = torch.unique(sequence_ids, return_inverse=True)
    counts = torch.bincount(sequence[candidates], minlength=len(ids))
    quotas = quota_per_sequence(counts, top_fraction, quota)
    return best_per_sequence(gain, candidates, sequence, quotas)


@torch.no_grad()
def select_random_tokens(
    eligible: Tensor, sequence_ids: Tensor, like: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Mark random tokens of each sequence: a control for the choice by entropy gain.

    Not of the paper. As many in each sequence as ``like`` marks, so that the control
    differs in which tokens are chosen and in nothing else. Each sequence draws from a
    generator of its own, on the CPU, over its own positions in order: what is drawn
    depends on its seed and its length, neither on the packing nor on the device.

    Parameters
    ----------
    eligible
        ``[T]`` bool, True where a token may be selected.
    sequence_ids
        ``[T]`` ints; equal ids, one sequence.
    like
        ``[T]`` bool, another selection among the eligible tokens.
    seeds
        One for each of the S distinct values of ``sequence_ids``, in ascending order of
        id, sequences without an eligible token included.

    Returns
    -------
    Tensor
        ``[T]`` bool.

    Raises
    ------
    ValueError
        Shapes differ, a mask is not bool, ``like`` marks a token that is not eligible,
        or not S seeds.
    """
    _check_mask("eligible", eligible, "pass a mask such as advantages > 0")
    _check_mask("like", like, "pass another selection of these tokens")
    check_shapes(
        "give every packed position an id, and select both among the same tokens",
        eligible=(eligible, "T"),
        sequence_ids=(sequence_ids, "T"),
        like=(like, "T"),
    )
    if (like & ~eligible).any():
        raise ValueError(
            "like: expected eligible tokens only, found "
            f"{int((like & ~eligible).sum())} others; select both among the same tokens"
        )
    ids, sequence, lengths = torch.unique(
        sequence_ids, return_inverse=True, return_counts=True
    )
    if len(seeds) != len(ids):
        raise ValueError(
            f"seeds: expected {len(ids)}, one per distinct sequence id, found "
            f"{len(seeds)}; derive each with view_seed, in ascending order of id"
        )
    draws = [
        # Doubles: equal scores would favour earlier tokens.
        torch.rand(
            length,
            generator=torch.Generator(device="cpu").manual_seed(seed),
            dtype=torch.float64,
        )
        for seed, length in zip(seeds, lengths.tolist())
    ]
    score = torch.zeros(len(eligible), dtype=torch.float64, device=eligible.device)
    if draws:  # sorted by sequence, positions keep their order
        by_sequence = torch.sort(sequence, stable=True).indices
        score[by_sequence] = torch.cat(draws).to(eligible.device)
    quotas = torch.bincount(sequence[like], minlength=len(ids))
    return best_per_sequence(score, eligible, sequence, quotas)


def _check_mask(name: str, mask: Tensor, fix: str) -> None:
    """Refuse a mask of numbers, which would index positions."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"{name}: expected a bool tensor, found {mask.dtype} {list(mask.shape)}; "
            f"{fix}"
        )


def best_per_sequence(
    score: Tensor, candidates: Tensor, sequence: Tensor, quotas: Tensor
) -> Tensor:
    """Mark each sequence's candidates of highest score, as many as its quota.

    Parameters
    ----------
    score
        ``[T]`` float, finite at candidates.
    candidates
        ``[T]`` bool.
    sequence
        ``[T]`` int64 in [0, S).
    quotas
        ``[S]`` int64.

    Returns
    -------
    Tensor
        ``[T]`` bool.
    """
    selected = torch.zeros_like(candidates)
    positions = candidates.nonzero().squeeze(1)
    # Two stable sorts: by score, then by sequence; ties keep the packed order.
    by_score = torch.sort(score[positions], descending=True, stable=True).indices
    by_sequence = torch.sort(sequence[positions][by_score], stable=True).indices
    order = positions[by_score[by_sequence]]
    sequence = sequence[order]
    counts = torch.bincount(sequence, minlength=len(quotas))
    first = counts.cumsum(0) - counts  # where each sequence starts in `order`
    rank = torch.arange(len(order), device=order.device) - first[sequence]
    selected[order[rank < quotas[sequence]]] = True
    return selected


def quota_per_sequence(counts: Tensor, fraction: float, quota: str) -> Tensor:
    """Round ``fraction * counts`` free of float error; ``[S]`` int64.

    Rounded down, it is at least 1 (of no candidates at all there is none to take).
    """
    exact = counts.double() * fraction
    if quota == "floor":
        return torch.floor(exact * (1 + _QUOTA_TOLERANCE)).long().clamp(min=1)
    return torch.ceil(exact * (1 - _QUOTA_TOLERANCE)).long()
