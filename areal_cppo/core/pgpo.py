"""PGPO: Perception-Grounded Policy Optimization (arXiv 2604.01840), to compare with.

The policy loss itself, on advantages that are weighted token by token. A token's
dependency on the image is the divergence between its distributions with and without it
(Eq. 1), without gradient. Within each response (Eq. 4 to 8)

- its logarithm, ``log(1 + dependency)``, is put between 0, that of the response's least
  dependent token, and 1, that of its most dependent one: the position;
- below ``tau`` a token's weight falls to 0 in proportion to its position, from there on
  it rises from 1 to ``1 + beta``;
- weights are divided by their mean, so that they redistribute a response's advantage.

What the paper leaves open, and what is done here:

1. The divergence is estimated by k3 from the sampled token (appendix A.1): ``k3``, the
   default. ``kl`` is that over the vocabulary, of Eq. 1.
2. Which policy scores: the current one, at the start of the optimiser step, whose pass
   is made anyway; no gradient flows through scores or weights.
3. A response whose tokens all depend alike has weights of 1; the formula has 0/0 there.
   "Alike" is within 1e-6 nats, below which positions would be rounding's.
4. The constant that keeps denominators from 0 is 1e-8, in double precision.

Deviation: the paper takes the image away by masking the attention to its tokens. Here
the policy is given a view: ``blank``, the image's mean colour all over, by default.

Letters: ``G`` tokens of responses with an image.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from areal_cppo.checks import FRACTION, Choice, Number, check_fields, setting
from areal_cppo.core.cpl import require_perturbed
from areal_cppo.core.shapes import check_shapes

DEPENDENCIES = ("k3", "kl")
_LEAST_SPREAD = 1e-6  # nats
_EPSILON = 1e-8


def blank_views() -> list[dict[str, Any]]:
    """Return what stands for no image: one of its mean colour."""
    return [{"name": "blank"}]


@dataclass
class PGPOConfig:
    """PGPO's weights of tokens, ``actor.pgpo`` in the YAML.

    Raises
    ------
    ValueError
        A value is out of range or of a wrong type.
    """

    tau: float = setting(
        0.4,
        FRACTION,
        "position between a response's least and most dependent token from which on a "
        "token's advantage is raised, and below which it is lowered",
    )
    beta: float = setting(
        2.0,
        Number(low=0, high=1000),
        "by how much the weight of the most dependent token exceeds that of one at tau",
    )
    dependency: str = setting(
        "k3",
        Choice(DEPENDENCIES),
        "k3: estimated from the sampled token, as published; kl: over the vocabulary",
    )
    max_dependency: float | None = setting(
        None,
        Number(low=0, high=1e6, low_open=True, optional=True),
        "nats; a token's dependency counts up to here; null: no bound, as published",
    )
    views: list[dict[str, Any]] = field(
        default_factory=blank_views,
        metadata={"help": "perturbations of which one stands for no image"},
    )

    def __post_init__(self) -> None:
        check_fields(self, "pgpo.")
        require_perturbed(self.views, "pgpo.views")

    @property
    def has_effect(self) -> bool:
        """Whether it changes the policy loss: always."""
        return True

    @property
    def view_kinds(self) -> tuple[str, ...]:
        """The views that are made of an image."""
        return ("negative",)

    @property
    def views_with_graph(self) -> int:
        """How many view passes are kept for the backward pass, beside the anchor's."""
        return 0

    @property
    def responses(self) -> None:
        """All of a group's are weighted: each from its own scores."""
        return None

    @property
    def in_words(self) -> str:
        """What a dry run says beside the objective's name."""
        return f"tau {self.tau:g}, beta {self.beta:g}"


@torch.no_grad()
def dependency_positions(dependency: Tensor, sequence_ids: Tensor) -> Tensor:
    """Place each token between its response's least and most dependent one (Eq. 4, 5).

    Parameters
    ----------
    dependency
        ``[G]`` float, nats, >= 0 (Eq. 1).
    sequence_ids
        ``[G]`` ints; equal ids, one sequence.

    Returns
    -------
    Tensor
        ``[G]`` fp64 in [0, 1], without gradient; not a number in a sequence whose
        tokens depend alike, or of which one's dependency is not finite.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    check_shapes(
        "take both at the same tokens",
        dependency=(dependency, "G"),
        sequence_ids=(sequence_ids, "G"),
    )
    values = torch.log1p(dependency.double())
    ids, sequence = torch.unique(sequence_ids, return_inverse=True)
    lows, highs = (
        torch.zeros(len(ids), dtype=values.dtype, device=values.device).scatter_reduce(
            0, sequence, values, reduce, include_self=False
        )
        for reduce in ("amin", "amax")
    )
    spread = highs - lows
    spread = spread.masked_fill(
        ~(spread.isfinite() & (spread > _LEAST_SPREAD)), float("nan")
    )
    return (values - lows[sequence]) / (spread[sequence] + _EPSILON)


@torch.no_grad()
def perception_weights(
    positions: Tensor, sequence_ids: Tensor, tau: float, beta: float
) -> Tensor:
    """Compute what each token's advantage is multiplied by (Eq. 6, 7).

    Parameters
    ----------
    positions
        ``[G]`` fp64, from :func:`dependency_positions`.
    sequence_ids
        ``[G]`` ints; equal ids, one sequence.
    tau
        In [0, 1].
    beta
        >= 0.

    Returns
    -------
    Tensor
        ``[G]`` fp64, >= 0, of mean 1 in each sequence, without gradient; 1 where there
        is no position.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    check_shapes(
        "take both at the same tokens",
        positions=(positions, "G"),
        sequence_ids=(sequence_ids, "G"),
    )
    lowered = positions / (tau + _EPSILON)
    raised = 1 + beta * (positions - tau) / (1 - tau + _EPSILON)
    weights = torch.where(positions < tau, lowered, raised)
    ids, sequence, counts = torch.unique(
        sequence_ids, return_inverse=True, return_counts=True
    )
    sums = torch.zeros(len(ids), dtype=weights.dtype, device=weights.device)
    sums.index_add_(0, sequence, weights)
    weights = weights * (counts / sums)[sequence]
    return weights.masked_fill(positions.isnan(), 1.0)
