"""How much each response token's prediction depends on the image.

The score follows arXiv 2601.00501 and its code. Deviation: a floor on the rise of
entropy can be set (:func:`rise_eligible`), because rounding alone makes the entropy of
about half of all tokens rise.

Letters: ``T`` response positions, ``G`` gated ones, ``V`` vocabulary.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from areal_cppo.checks import check_chunk_size
from areal_cppo.core.precision import log_probs, row_entropy, row_kl
from areal_cppo.core.shapes import check_shapes

_GAIN_EPSILON = 1e-6  # of the published score; keeps 0 / 0 out of it
_ENTROPY_CHUNK = 256  # rows in fp32 at a time: 160 MB with 150k words, not 0.6 MB * T


class TokenScores(NamedTuple):
    """What tells perception tokens from others, at the gated positions.

    Attributes
    ----------
    anchor_entropy
        ``[G]`` fp32, nats, given the original image.
    negative_entropy
        ``[G]`` fp32, nats, given the negative view.
    divergence
        ``[G]`` fp32, nats, >= 0: KL(anchor || negative) over the full vocabulary; a
        metric, the selection does not use it.
    """

    anchor_entropy: Tensor
    negative_entropy: Tensor
    divergence: Tensor


def token_entropy(
    logits: Tensor, temperature: float = 1.0, chunk_size: int = _ENTROPY_CHUNK
) -> Tensor:
    """Compute the entropy of each position's next-token distribution.

    Differentiable; under ``torch.no_grad`` it holds ``chunk_size`` rows in fp32.

    Parameters
    ----------
    logits
        ``[T, V]``, any float dtype; -inf marks a word that cannot occur.
    temperature
        What logits are divided by, > 0.
    chunk_size
        Rows reduced at a time, >= 1; no effect on the result.

    Returns
    -------
    Tensor
        ``[T]`` fp32, in nats, in ``[0, log V]``.

    Raises
    ------
    ValueError
        ``logits`` is not 2-dimensional, or an argument is out of range.
    """
    check_shapes("flatten batch and time into T", logits=(logits, "T V"))
    check_chunk_size(chunk_size)
    return torch.cat(
        [row_entropy(log_probs(rows, temperature)) for rows in logits.split(chunk_size)]
    )


@torch.no_grad()
def score_tokens(
    anchor_logits: Tensor, negative_logits: Tensor, temperature: float = 1.0
) -> TokenScores:
    """Reduce the logits of two passes to what the selection needs.

    All rows are in fp32 at a time; :func:`areal_cppo.core.score_hidden` calls it for a
    few.

    Parameters
    ----------
    anchor_logits
        ``[G, V]``, any float dtype, at the gated positions; G may be 0.
    negative_logits
        ``[G, V]``, any float dtype, at the same positions.
    temperature
        What logits are divided by, > 0.

    Returns
    -------
    TokenScores
        Three tensors ``[G]`` without gradient; the entropies are those of
        :func:`token_entropy`. Not a number where logits are not.

    Raises
    ------
    ValueError
        Shapes do not agree, or the temperature is out of range.
    """
    check_shapes(
        "take both at the gated positions",
        anchor_logits=(anchor_logits, "G V"),
        negative_logits=(negative_logits, "G V"),
    )
    log_p = log_probs(anchor_logits, temperature)
    log_q = log_probs(negative_logits, temperature)
    entropies = row_entropy(log_p), row_entropy(log_q)
    return TokenScores(*entropies, row_kl(log_p, log_q))


def entropy_gain(anchor_entropy: Tensor, negative_entropy: Tensor) -> Tensor:
    """Score how much each token depends on the image (arXiv 2601.00501).

    ``relu(H_negative - H_anchor) / (H_negative + 1e-6)``: the share of the entropy
    under the negative view that seeing the image removes.

    Parameters
    ----------
    anchor_entropy
        ``[T]``, nats, >= 0, given the original image.
    negative_entropy
        ``[T]``, nats, >= 0, given the negative view.

    Returns
    -------
    Tensor
        ``[T]``, no unit, in ``[0, 1]``, 0 where entropy does not rise. Not a number
        where an entropy is not; such tokens are never selected.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    rise = entropy_rise(anchor_entropy, negative_entropy)
    return rise / (negative_entropy + _GAIN_EPSILON)


def entropy_rise(anchor_entropy: Tensor, negative_entropy: Tensor) -> Tensor:
    """Score how much each token depends on the image, without normalisation.

    ``relu(H_negative - H_anchor)``. Not of the paper, which divides by ``H_negative``
    (:func:`entropy_gain`): where both entropies are next to nothing, as at template
    tokens, the quotient is mostly noise, and as large as that of a token which reads
    the image.

    Parameters
    ----------
    anchor_entropy
        ``[T]``, nats, >= 0, given the original image.
    negative_entropy
        ``[T]``, nats, >= 0, given the negative view.

    Returns
    -------
    Tensor
        ``[T]``, nats, in ``[0, log V]``, 0 where entropy does not rise. Not a number
        where an entropy is not.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    check_shapes(
        "compute both at the same positions",
        anchor_entropy=(anchor_entropy, "T"),
        negative_entropy=(negative_entropy, "T"),
    )
    return torch.relu(negative_entropy - anchor_entropy)


def rise_eligible(
    anchor_entropy: Tensor, negative_entropy: Tensor, min_gain: float, vocabulary: int
) -> Tensor:
    """Mark tokens whose entropy rises enough under the negative view.

    Not of the paper, whose only condition is a rise > 0.

    Parameters
    ----------
    anchor_entropy
        ``[G]``, nats, given the original image.
    negative_entropy
        ``[G]``, nats, given the negative view.
    min_gain
        Least rise in units of ``log(vocabulary)``, in [0, 1]; 0 demands nothing, not
        even a rise.
    vocabulary
        Number of words, >= 2.

    Returns
    -------
    Tensor
        ``[G]`` bool, False where an entropy is not finite.

    Raises
    ------
    ValueError
        Shapes differ, or an argument is out of range.
    """
    check_shapes(
        "compute both at the same positions",
        anchor_entropy=(anchor_entropy, "T"),
        negative_entropy=(negative_entropy, "T"),
    )
    if not 0 <= min_gain <= 1 or vocabulary < 2:
        raise ValueError(
            "min_gain: expected a number in [0, 1] and a vocabulary >= 2, found "
            f"{min_gain} and {vocabulary}; the published rule is min_gain 0"
        )
    rise = negative_entropy - anchor_entropy
    finite = torch.isfinite(rise)
    if min_gain == 0:
        return finite
    return finite & (rise >= min_gain * math.log(vocabulary))
