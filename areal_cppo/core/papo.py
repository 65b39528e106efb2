"""PAPO: Perception-Aware Policy Optimization (arXiv 2507.06448), to compare CPPO with.

To the policy loss it adds, over all tokens of all responses (Eq. 2, section 3.2),

    - gamma KL[pi || pi_negative] + eta1 H[pi] + eta2 H[pi_negative]

where ``pi_negative`` is the policy given a negative view, 60 % of whose 14-pixel
patches are black: the Implicit Perception Loss, which drives the two distributions
apart, and the Double Entropy Loss, which keeps that from being won by noise.

The paper and its code (github.com/MikeWangWZHL/PAPO) are not the same; the defaults are
what the code computes:

1. The KL is estimated by k3 at the sampled token, ``exp(-r) - 1 + r`` with
   ``r = log pi - log pi_negative``. (The paper's formula, read with the ratio that its
   text defines, has ``-r`` for ``r``, which would estimate the reverse KL.) The code
   cuts k3 off at 10, without gradient beyond: ``max_divergence``.
2. In Eq. 2 both distributions are the policy's. The code scores the negative view once
   before the update, without gradient, so that the term in ``eta2`` is a constant:
   ``negative_grad: false``, and ``eta2: 0``, which is the same gradient.
3. The entropies are ``-log pi(token)``. The gradient of the anchor's is zero on average
   where tokens are on-policy; that of the negative view's pulls ``pi_negative`` towards
   ``pi``, and beyond ``gamma`` it outweighs the perception loss there. The entropies
   themselves are ``entropy: full``.
4. Means are over the tokens of the global batch (``token``), as the code's are over
   those of a micro-batch, and AReaL's policy loss is; Eq. 2 has the mean over responses
   of their tokens' mean (``sequence``).
5. ``gamma`` and ``eta1`` are those of the paper's runs without a reference policy
   (PAPO_D, appendix C); with one they are .01 or .02 and 0 or .05, by model.

Deviations: exactly 60 % of the patches turn black (in the code each with a chance of
60 %); tokens are weighted for their staleness, as in CPPO. The published code is
synchronous; with every token on-policy the weight is exactly 1.

Letters: ``N`` response tokens.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from areal_cppo.checks import (
    Bool,
    Choice,
    Instance,
    Number,
    check_fields,
    refusal,
    setting,
)
from areal_cppo.core.cpl import (
    AGGREGATIONS,
    RESPONSES,
    StalenessConfig,
    require_perturbed,
)
from areal_cppo.core.divergence import cut_off, sampled_kl
from areal_cppo.core.precision import single
from areal_cppo.core.shapes import check_shapes

DIVERGENCES = ("k3", "kl")
ENTROPIES = ("sampled", "full")


def papo_views() -> list[dict[str, Any]]:
    """Return the published masking: 60 % of the 14-pixel patches black."""
    return [{"name": "black_squares", "coverage": 0.6, "square": 14}]


@dataclass
class PAPOStalenessConfig(StalenessConfig):
    """How a token sampled by an older policy counts; not of the paper."""

    PREFIX: ClassVar[str] = "papo.staleness."


@dataclass
class PAPOConfig:
    """PAPO's terms beside the policy loss, ``actor.papo`` in the YAML.

    Raises
    ------
    ValueError
        A value is out of range or of a wrong type, or has no effect.
    """

    gamma: float = setting(
        0.01,
        Number(low=0, high=1000),
        "weight of the Implicit Perception Loss, which is maximised",
    )
    eta1: float = setting(
        0.03,
        Number(low=0, high=1000),
        "weight of the entropy given the original image, which is minimised",
    )
    eta2: float = setting(
        0.0,
        Number(low=0, high=1000),
        "weight of the entropy given the negative view, which is minimised; 0.03 in "
        "the paper, without effect in its code",
    )
    divergence: str = setting(
        "k3",
        Choice(DIVERGENCES),
        "k3: estimated from the sampled token, as published; kl: over the vocabulary",
    )
    max_divergence: float | None = setting(
        10.0,
        Number(low=0, high=1e6, low_open=True, optional=True),
        "nats; a token's divergence counts up to here, without gradient beyond; null: "
        "no bound",
    )
    entropy: str = setting(
        "sampled",
        Choice(ENTROPIES),
        "sampled: -log of the sampled token's probability, as published; full: over "
        "the vocabulary",
    )
    negative_grad: bool = setting(
        False,
        Bool(),
        "whether gradient flows through the negative view as well: in the paper's "
        "formula it does, in its code it doesn't",
    )
    aggregation: str = setting(
        "token",
        Choice(AGGREGATIONS),
        "token: mean over tokens; sequence: mean over responses of their tokens' mean",
    )
    responses: int | None = setting(
        None,
        RESPONSES,
        "at most so many responses of a group have these terms, drawn at random, each "
        "counted for those that haven't; null: all",
    )
    views: list[dict[str, Any]] = field(
        default_factory=papo_views,
        metadata={"help": "perturbations of which one makes an image's negative view"},
    )
    staleness: PAPOStalenessConfig = setting(
        PAPOStalenessConfig,
        Instance(PAPOStalenessConfig),
        "weights of tokens sampled by an older policy",
    )

    def __post_init__(self) -> None:
        check_fields(self, "papo.")
        require_perturbed(self.views, "papo.views")
        if self.eta2 > 0 and not self.negative_grad:
            raise refusal(
                "papo.eta2",
                "0 with papo.negative_grad=false, where it has no effect",
                self.eta2,
                "set it to 0, or papo.negative_grad to true",
            )

    @property
    def has_effect(self) -> bool:
        """Whether any of the terms has a weight."""
        return self.gamma > 0 or self.eta1 > 0 or self.eta2 > 0

    @property
    def view_kinds(self) -> tuple[str, ...]:
        """The views that are made of an image."""
        return ("negative",)

    @property
    def views_with_graph(self) -> int:
        """How many view passes are kept for the backward pass, beside the anchor's."""
        return int(self.negative_grad)

    @property
    def in_words(self) -> str:
        """What a dry run says beside the objective's name."""
        return f"gamma {self.gamma:g}, eta1 {self.eta1:g}, eta2 {self.eta2:g}"


def perception_divergence(
    anchor_logprobs: Tensor,
    negative_logprobs: Tensor,
    max_divergence: float | None = None,
) -> Tensor:
    """Estimate KL[pi || pi_negative] from sampled tokens (Eq. 2; Schulman's k3).

    ``exp(-r) - 1 + r`` with ``r = anchor_logprobs - negative_logprobs``. Gradient flows
    to both.

    Parameters
    ----------
    anchor_logprobs
        ``[N]`` float, nats, of the sampled tokens, original image.
    negative_logprobs
        ``[N]`` float, nats, of the same given the negative view.
    max_divergence
        What it is cut off at, nats; no gradient beyond. None: never.

    Returns
    -------
    Tensor
        ``[N]``, at least fp32, nats, >= 0.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    check_shapes(
        "take both at the same tokens",
        anchor_logprobs=(anchor_logprobs, "N"),
        negative_logprobs=(negative_logprobs, "N"),
    )
    ratio = single(anchor_logprobs) - single(negative_logprobs)
    return cut_off(sampled_kl(ratio), max_divergence)


def papo_loss(
    divergence: Tensor,
    anchor_entropy: Tensor,
    negative_entropy: Tensor,
    gamma: float,
    eta1: float,
    eta2: float,
) -> Tensor:
    """Compute what PAPO adds to the policy loss at each token (Eq. 2, to be minimised).

    ``-gamma divergence + eta1 anchor_entropy + eta2 negative_entropy``.

    Parameters
    ----------
    divergence
        ``[N]`` float, nats, of the negative view from the anchor.
    anchor_entropy
        ``[N]`` float, nats, exact or ``-log pi(token)``.
    negative_entropy
        ``[N]`` float, nats, the same given the negative view.
    gamma, eta1, eta2
        Weights, >= 0.

    Returns
    -------
    Tensor
        ``[N]``, at least fp32, nats.

    Raises
    ------
    ValueError
        Shapes differ.
    """
    check_shapes(
        "take all at the same tokens",
        divergence=(divergence, "N"),
        anchor_entropy=(anchor_entropy, "N"),
        negative_entropy=(negative_entropy, "N"),
    )
    entropies = eta1 * single(anchor_entropy) + eta2 * single(negative_entropy)
    return entropies - gamma * single(divergence)
