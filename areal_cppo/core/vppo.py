"""VPPO: Visually-Perceptive Policy Optimization (arXiv 2510.09285), to compare with.

The policy loss itself, on advantages that depend on how much each token and each
response depend on the image. A token's visual dependency is the divergence between its
distributions given the image and given a negative view (Eq. 3), without gradient.

- Token-level gradient filtering (Eq. 4): in each response the share ``top_fraction`` of
  tokens with the highest dependency keep their policy gradient; the others have none,
  and still count in the loss's mean (Eq. 6).
- Trajectory-level advantage shaping (Eq. 5): a response's advantage is multiplied by
  ``beta_min + (beta_max - beta_min) x``, where ``x`` in [0, 1] is its mean dependency
  between the lowest and the highest of the batch.

What the paper and its code (github.com/huaixuheqing/VPPO-RL) leave to choose:

1. Eq. 3 is the KL over the vocabulary (``kl``, the default); the code estimates it from
   the sampled token (``k3``). The code cuts dependencies off at 10: ``max_dependency``.
2. ``beta_max`` is set anew for each batch, so that the factors' mean is 1
   (``beta_max: null``), or fixed.

Deviations: lowest, highest and mean are those of the global batch of an optimiser step;
in the code lowest and highest are those of one rank and the mean that of one
micro-batch, so that the gradient depends on the layout. Exactly half of the patches
turn black (in the code each with a chance of half). Ties go to the earlier token. The
entropy penalty that the paper gives VPPO and its baseline alike is not part of it.

Letters: ``G`` tokens of responses with an image, ``S`` sequences.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from areal_cppo.checks import (
    FRACTION,
    POSITIVE_FRACTION,
    Choice,
    Number,
    check_argument,
    check_fields,
    refusal,
    setting,
)
from areal_cppo.core.cpl import require_perturbed
from areal_cppo.core.selection import best_per_sequence, quota_per_sequence
from areal_cppo.core.shapes import check_shapes

DEPENDENCIES = ("kl", "k3")
# Below it all responses count as equally dependent, as in the published code.
_LEAST_SPREAD = 1e-6


def vppo_views() -> list[dict[str, Any]]:
    """Return the published masking: half of the 14-pixel patches black."""
    return [{"name": "black_squares", "coverage": 0.5, "square": 14}]


@dataclass
class VPPOConfig:
    """VPPO's filtering and shaping, ``actor.vppo`` in the YAML.

    Raises
    ------
    ValueError
        A value is out of range or of a wrong type.
    """

    top_fraction: float = setting(
        0.4,
        POSITIVE_FRACTION,
        "share of a response's tokens that keep their policy gradient",
    )
    beta_min: float = setting(
        0.9,
        FRACTION,
        "factor on the advantage of the batch's least dependent response",
    )
    beta_max: float | None = setting(
        None,
        Number(low=0, high=1000, optional=True),
        "that of its most dependent response; null: so that the mean factor is 1",
    )
    dependency: str = setting(
        "kl",
        Choice(DEPENDENCIES),
        "kl: over the vocabulary; k3: estimated from the sampled token",
    )
    max_dependency: float | None = setting(
        10.0,
        Number(low=0, high=1e6, low_open=True, optional=True),
        "nats; a token's dependency counts up to here; null: no bound",
    )
    views: list[dict[str, Any]] = field(
        default_factory=vppo_views,
        metadata={"help": "perturbations of which one makes an image's negative view"},
    )

    def __post_init__(self) -> None:
        check_fields(self, "vppo.")
        require_perturbed(self.views, "vppo.views")
        if self.beta_max is not None and self.beta_max < self.beta_min:
            raise refusal(
                "vppo.beta_max",
                f"a number >= vppo.beta_min ({self.beta_min:g}), or null",
                self.beta_max,
                "raise it, or lower vppo.beta_min",
            )

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
        """All of a group's are compared: each has its own factor and filter from it."""
        return None

    @property
    def in_words(self) -> str:
        """What a dry run says beside the objective's name."""
        highest = "dynamic" if self.beta_max is None else f"{self.beta_max:g}"
        return (
            f"top {self.top_fraction:g} of the tokens, advantages times "
            f"{self.beta_min:g} to {highest}"
        )


@torch.no_grad()
def response_dependency(dependency: Tensor, sequence_ids: Tensor, count: int) -> Tensor:
    """Average the tokens' dependencies of each response (section 3.2.2).

    Parameters
    ----------
    dependency
        ``[G]`` float, nats (Eq. 3).
    sequence_ids
        ``[G]`` ints in ``[0, count)``.
    count
        Number S of sequences.

    Returns
    -------
    Tensor
        ``[S]`` fp64, nats, without gradient; not a number for a sequence without a
        token, or with one whose dependency is not finite.

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
    sums = torch.zeros(count, dtype=torch.float64, device=dependency.device)
    sums.index_add_(0, sequence_ids, dependency.double())
    means = sums / torch.bincount(sequence_ids, minlength=count)
    return means.masked_fill(~means.isfinite(), float("nan"))


@torch.no_grad()
def advantage_factors(
    response_dependency: Tensor,
    *,
    lowest: float,
    highest: float,
    mean: float,
    beta_min: float,
    beta_max: float | None = None,
) -> Tensor:
    """Compute what each response's advantage is multiplied by (Eq. 5).

    Parameters
    ----------
    response_dependency
        ``[S]`` float, nats; not a number where there is none.
    lowest, highest, mean
        Of the global batch's response dependencies.
    beta_min
        Factor at the lowest.
    beta_max
        Factor at the highest; None: so that the batch's mean factor is 1.

    Returns
    -------
    Tensor
        ``[S]``, dtype of the input, without gradient; 1 where there is no dependency,
        and everywhere if the batch's hardly differ.

    Raises
    ------
    ValueError
        The mean is not between lowest and highest where they differ.
    """
    spread = highest - lowest
    if spread <= _LEAST_SPREAD:
        return torch.ones_like(response_dependency)
    if not lowest < mean < highest:
        raise ValueError(
            f"mean: expected a number between lowest and highest, found {mean} for "
            f"{lowest} and {highest}; take all three over the same responses"
        )
    if beta_max is None:
        # A mean of 1 over the batch: beta_min + (beta_max - beta_min) mean(x) = 1.
        beta_max = beta_min + (1 - beta_min) * spread / (mean - lowest)
    position = (response_dependency - lowest) / spread
    factors = beta_min + (beta_max - beta_min) * position
    return factors.masked_fill(response_dependency.isnan(), 1.0)


@torch.no_grad()
def select_dependent_tokens(
    dependency: Tensor, sequence_ids: Tensor, top_fraction: float
) -> Tensor:
    """Mark each response's most dependent tokens (Eq. 4).

    Per sequence exactly ``ceil(top_fraction * number of its tokens)``, as in the
    published code; ties go to the earlier token.

    Parameters
    ----------
    dependency
        ``[G]`` float, finite, nats.
    sequence_ids
        ``[G]`` ints; equal ids, one sequence.
    top_fraction
        In (0, 1].

    Returns
    -------
    Tensor
        ``[G]`` bool.

    Raises
    ------
    ValueError
        The shapes differ, or the fraction is out of range.
    """
    check_shapes(
        "take both at the same tokens",
        dependency=(dependency, "G"),
        sequence_ids=(sequence_ids, "G"),
    )
    check_argument(
        "top_fraction", top_fraction, POSITIVE_FRACTION, "the published value is 0.4"
    )
    _, sequence, counts = torch.unique(
        sequence_ids, return_inverse=True, return_counts=True
    )
    quotas = quota_per_sequence(counts, top_fraction, "ceil")
    candidates = torch.ones_like(sequence, dtype=torch.bool)
    return best_per_sequence(dependency, candidates, sequence, quotas)
