"""The output head, read a few rows at a time: no ``[T, V]`` of logits is ever held.

A pass of the model hands over hidden states where something is asked of its
distributions, and the projection to logits. What is asked (a log-probability, an
entropy, a divergence) is computed for a chunk of rows and only that is kept; where it
needs gradient the chunk's logits are computed again in the backward pass
(``torch.utils.checkpoint``). The numbers are those of the whole logits.

Letters: ``T`` tokens, ``N`` selected tokens, ``D`` hidden size, ``V`` vocabulary.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from areal_cppo.checks import check_chunk_size
from areal_cppo.core.divergence import token_divergence
from areal_cppo.core.precision import log_probs, row_entropy
from areal_cppo.core.scores import TokenScores, score_tokens, token_entropy
from areal_cppo.core.shapes import check_shapes

CHUNK = 1024  # rows: 0.6 GB in fp32 with a vocabulary of 150k
_SCORE_CHUNK = 256  # two passes' logits and their log-probabilities at a time

Projection = Callable[[Tensor], Tensor]  # [n, D] to [n, V]


class TokenStatistics(NamedTuple):
    """What the policy loss and its metrics need of each token's distribution.

    Attributes
    ----------
    logprobs
        ``[T]`` fp32, nats, of the labels, at the temperature; with gradient.
    entropy
        ``[T]`` fp32, nats, at the temperature; no gradient.
    lowest, highest
        ``[T]`` fp32, least and largest logit; no gradient.
    """

    logprobs: Tensor
    entropy: Tensor
    lowest: Tensor
    highest: Tensor


def token_statistics(
    hidden: Tensor,
    project: Projection,
    labels: Tensor,
    temperature: float = 1.0,
    chunk_size: int | None = CHUNK,
) -> TokenStatistics:
    """Compute log-probabilities and entropies from hidden states.

    Parameters
    ----------
    hidden
        ``[T, D]``, T >= 1, any float dtype.
    project
        The output head.
    labels
        ``[T]`` int64 in ``[0, V)``.
    temperature
        What logits are divided by, > 0.
    chunk_size
        Rows of logits at a time, >= 1; None: all at once, kept for the backward pass.
        No effect on the result.

    Returns
    -------
    TokenStatistics
        Four tensors ``[T]``.

    Raises
    ------
    ValueError
        Shapes do not agree, or an argument is out of range.
    """
    check_shapes(
        "take both at the same tokens", hidden=(hidden, "T D"), labels=(labels, "T")
    )
    if chunk_size is not None:
        check_chunk_size(chunk_size)

    def read(rows: Tensor, chosen: Tensor) -> TokenStatistics:
        logits = project(rows)
        log_p = log_probs(logits, temperature)
        logprobs = log_p.gather(1, chosen.unsqueeze(1)).squeeze(1)
        # After what has gradient: computing again stops there.
        with torch.no_grad():
            entropy = row_entropy(log_p)
            lowest, highest = torch.aminmax(logits, dim=-1)
        return TokenStatistics(logprobs, entropy, lowest.float(), highest.float())

    if chunk_size is None:
        parts = [read(hidden, labels)]
    else:
        chunks = zip(hidden.split(chunk_size), labels.split(chunk_size))
        parts = [_again_in_backward(read, *chunk) for chunk in chunks]
    return TokenStatistics(*(torch.cat(column) for column in zip(*parts)))


@torch.no_grad()
def score_hidden(
    anchor: Tensor,
    negative: Tensor,
    project: Projection,
    temperature: float = 1.0,
    chunk_size: int = _SCORE_CHUNK,
) -> TokenScores:
    """Compute what the selection needs from the hidden states of two passes.

    Parameters
    ----------
    anchor
        ``[G, D]``, any float dtype, given the original image; G may be 0.
    negative
        ``[G, D]``, given the negative view, at the same tokens.
    project, temperature, chunk_size
        As :func:`token_statistics` takes them; always in chunks.

    Returns
    -------
    TokenScores
        Three tensors ``[G]`` without gradient, as :func:`score_tokens`.

    Raises
    ------
    ValueError
        Shapes do not agree, or an argument is out of range.
    """
    check_shapes(
        "take both at the same tokens",
        anchor=(anchor, "G D"),
        negative=(negative, "G D"),
    )
    check_chunk_size(chunk_size)
    parts = [
        score_tokens(project(rows), project(others), temperature)
        for rows, others in zip(anchor.split(chunk_size), negative.split(chunk_size))
    ]
    return TokenScores(*(torch.cat(column) for column in zip(*parts)))


def view_divergences(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    project: Projection,
    labels: Tensor,
    kind: str = "kl",
    temperature: float = 1.0,
    grad: Collection[str] = ("anchor", "positive", "negative"),
    chunk_size: int = CHUNK // 2,
) -> tuple[Tensor, Tensor]:
    """Compute both views' divergences from the anchor from hidden states.

    Parameters
    ----------
    anchor, positive, negative
        ``[N, D]``, any float dtype, of the three passes at the selected tokens; N may
        be 0.
    project, chunk_size
        As :func:`token_statistics` takes them; always in chunks.
    labels
        ``[N]`` ints in ``[0, V)``, the sampled tokens.
    kind, temperature
        As :func:`token_divergence` takes them.
    grad
        Which of the three distributions carry gradient, to their hidden states and to
        the head.

    Returns
    -------
    tuple[Tensor, Tensor]
        Divergence of the positive and of the negative view, ``[N]`` fp32 each. With N =
        0 they are still connected to the inputs' graphs.

    Raises
    ------
    ValueError
        Shapes do not agree, or an argument is out of range.
    """
    views = {"positive": positive, "negative": negative}
    to_positive, to_negative = _divergences(
        anchor, views, project, labels, kind, temperature, grad, chunk_size
    )
    return to_positive, to_negative


def view_divergence(
    anchor: Tensor,
    negative: Tensor,
    project: Projection,
    labels: Tensor,
    kind: str = "kl",
    temperature: float = 1.0,
    grad: Collection[str] = ("anchor", "negative"),
    chunk_size: int = CHUNK // 2,
) -> Tensor:
    """Compute one view's divergence from the anchor from hidden states.

    As :func:`view_divergences`, of the negative view alone: ``[N]`` fp32.
    """
    views = {"negative": negative}
    (divergence,) = _divergences(
        anchor, views, project, labels, kind, temperature, grad, chunk_size
    )
    return divergence


def hidden_entropy(
    hidden: Tensor,
    project: Projection,
    temperature: float = 1.0,
    chunk_size: int = CHUNK // 2,
) -> Tensor:
    """Compute the entropy of each token's distribution from hidden states.

    Parameters
    ----------
    hidden
        ``[N, D]``, any float dtype; N may be 0.
    project, temperature, chunk_size
        As :func:`token_statistics` takes them; always in chunks.

    Returns
    -------
    Tensor
        ``[N]`` fp32, nats, with gradient.

    Raises
    ------
    ValueError
        ``hidden`` is not 2-dimensional, or an argument is out of range.
    """
    check_shapes("flatten batch and time into T", hidden=(hidden, "T D"))
    check_chunk_size(chunk_size)

    def read(rows: Tensor) -> Tensor:
        return token_entropy(project(rows), temperature)

    parts = [_again_in_backward(read, rows) for rows in hidden.split(chunk_size)]
    return torch.cat(parts)


def _divergences(
    anchor: Tensor,
    views: Mapping[str, Tensor],
    project: Projection,
    labels: Tensor,
    kind: str,
    temperature: float,
    grad: Collection[str],
    chunk_size: int,
) -> tuple[Tensor, ...]:
    """Compute each view's divergence from the anchor, ``[N]`` fp32 each."""
    check_shapes(
        "take all at the same tokens",
        anchor=(anchor, "N D"),
        labels=(labels, "N"),
        **{name: (view, "N D") for name, view in views.items()},
    )
    check_chunk_size(chunk_size)

    def project_branch(name: str, rows: Tensor) -> Tensor:
        if name in grad:
            return project(rows)
        with torch.no_grad():
            return project(rows)

    def read(chosen: Tensor, rows: Tensor, *others: Tensor):
        logits = project_branch("anchor", rows)
        return tuple(
            token_divergence(
                logits, project_branch(name, view), chosen, kind, temperature
            )
            for name, view in zip(views, others)
        )

    tensors = (labels, anchor, *views.values())
    chunks = zip(*(tensor.split(chunk_size) for tensor in tensors))
    parts = [_again_in_backward(read, *chunk) for chunk in chunks]
    return tuple(torch.cat(column) for column in zip(*parts))


def _again_in_backward(read: Callable, *tensors: Tensor):
    """Call ``read``, keeping its inputs only; it runs once more in the backward pass.

    Nothing in it is random, so that no random state needs to be kept.
    """
    if not torch.is_grad_enabled():
        return read(*tensors)
    return checkpoint(read, *tensors, use_reentrant=False, preserve_rng_state=False)
