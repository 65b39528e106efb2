"""DVRP: Differential Visual Reasoning Policy (arXiv 2601.06801), to compare with.

To the policy loss it adds, over all tokens of all responses (Eq. 4, minimised here),

    - lambda_nec KL[pi || pi_negative] + lambda_rob KL[pi || pi_positive]
    + lambda_ent (H[pi_negative] + H[pi_positive])

where ``pi_negative`` sees the image with random patches masked and ``pi_positive`` with
noise added: what the image holds is to matter, what noise changes is not, and neither
is to be had by making a view's distribution flat. KL and entropy are over the whole
vocabulary, which section 4.1 says of the KL. There is no published code.

What the paper doesn't say, and what is done here:

1. Through which of the three distributions gradient flows: its text has the terms
   constrain "the current policy", and without gradient through the views the one in
   ``lambda_ent`` is a constant. So through all three; ``grad`` names fewer.
2. How the sum over tokens is normalised. Summed over a response, the weights of .01
   would outweigh the policy loss; means are over the tokens of the global batch
   (``token``), as of AReaL's policy loss, or over responses of their tokens' mean.
3. Whether the KL that is maximised has a bound: here one of 10 nats a token, without
   gradient beyond, as PAPO's code has (``max_divergence``); the other has none.
4. What masked patches are filled with: black, as PAPO's. 60 % of the 14-pixel patches
   are masked, the paper's share for mathematics; exactly so many.

Deviations: the paper's noise fades from 500 steps of a diffusion to 3 along a sigmoid
over the run (Eq. 5, 6; the number of all steps isn't given, nor what noise one adds).
Here it is fixed at half of that, the schedule's mean, in the steps of NoisyRollout's
code: a trainer's step doesn't know how long the run will be. Tokens are weighted for
their staleness, as in CPPO; with every token on-policy the weight is exactly 1.

Letters: ``N`` response tokens.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from areal_cppo.checks import (
    Choice,
    Instance,
    Number,
    Subset,
    check_fields,
    refusal,
    setting,
)
from areal_cppo.core.cpl import (
    AGGREGATIONS,
    BRANCHES,
    RESPONSES,
    StalenessConfig,
    parse_perturbations,
    require_perturbed,
)
from areal_cppo.core.precision import single
from areal_cppo.core.shapes import check_shapes

DIVERGENCES = ("kl", "k3")
_WEIGHT = Number(low=0, high=1000)


def masked_views() -> list[dict[str, Any]]:
    """Return the published masking: 60 % of the 14-pixel patches, here black."""
    return [{"name": "black_squares", "coverage": 0.6, "square": 14}]


def noised_views() -> list[dict[str, Any]]:
    """Return the mean of the published noise: half of 500 steps of a diffusion."""
    return [{"name": "diffusion_noise", "steps": 250}]


@dataclass
class DVRPViewsConfig:
    """The perturbations of which one is drawn, uniformly, for each image.

    Raises
    ------
    ValueError
        An unknown perturbation or parameter, a value out of range, or negatives of
        which none is ever applied.
    """

    positive: list[dict[str, Any]] = field(
        default_factory=noised_views,
        metadata={"help": "perturbations that the prediction is to withstand"},
    )
    negative: list[dict[str, Any]] = field(
        default_factory=masked_views,
        metadata={"help": "perturbations that the prediction is to depend on"},
    )

    def __post_init__(self) -> None:
        parse_perturbations(self.positive, "dvrp.views.positive")
        require_perturbed(self.negative, "dvrp.views.negative")


@dataclass
class DVRPStalenessConfig(StalenessConfig):
    """How a token sampled by an older policy counts; not of the paper."""

    PREFIX: ClassVar[str] = "dvrp.staleness."


@dataclass
class DVRPConfig:
    """DVRP's terms beside the policy loss, ``actor.dvrp`` in the YAML.

    Raises
    ------
    ValueError
        A value is out of range or of a wrong type, or has no effect.
    """

    lambda_nec: float = setting(
        0.01,
        _WEIGHT,
        "weight of the negative view's divergence, which is maximised",
    )
    lambda_rob: float = setting(
        0.01,
        _WEIGHT,
        "weight of the positive view's divergence, which is minimised",
    )
    lambda_ent: float = setting(
        0.05,
        _WEIGHT,
        "weight of both views' entropies, which are minimised",
    )
    divergence: str = setting(
        "kl",
        Choice(DIVERGENCES),
        "kl: over the vocabulary, as the paper says; k3: estimated from the sampled "
        "token",
    )
    max_divergence: float | None = setting(
        10.0,
        Number(low=0, high=1e6, low_open=True, optional=True),
        "nats; a token's divergence of the negative view counts up to here, without "
        "gradient beyond; null: no bound",
    )
    grad: list[str] = setting(
        list(BRANCHES),
        Subset(BRANCHES),
        "the distributions that the terms send gradient to",
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
    views: DVRPViewsConfig = setting(
        DVRPViewsConfig,
        Instance(DVRPViewsConfig),
        "the perturbations that make the two views",
    )
    staleness: DVRPStalenessConfig = setting(
        DVRPStalenessConfig,
        Instance(DVRPStalenessConfig),
        "weights of tokens sampled by an older policy",
    )

    def __post_init__(self) -> None:
        check_fields(self, "dvrp.")
        if self.lambda_ent > 0 and not self.views_with_graph:
            raise refusal(
                "dvrp.lambda_ent",
                "0 with dvrp.grad=[anchor], where it has no effect",
                self.lambda_ent,
                "set it to 0, or add positive or negative to dvrp.grad",
            )

    @property
    def has_effect(self) -> bool:
        """Whether any of the terms has a weight."""
        return self.lambda_nec > 0 or self.lambda_rob > 0 or self.lambda_ent > 0

    @property
    def view_kinds(self) -> tuple[str, ...]:
        """The views that are made of an image."""
        return ("positive", "negative")

    @property
    def views_with_graph(self) -> int:
        """How many view passes are kept for the backward pass, beside the anchor's."""
        return len(set(self.view_kinds) & set(self.grad))

    @property
    def in_words(self) -> str:
        """What a dry run says beside the objective's name."""
        return (
            f"lambda_nec {self.lambda_nec:g}, lambda_rob {self.lambda_rob:g}, "
            f"lambda_ent {self.lambda_ent:g}"
        )


def dvrp_loss(
    negative_divergence: Tensor,
    positive_divergence: Tensor,
    negative_entropy: Tensor,
    positive_entropy: Tensor,
    *,
    lambda_nec: float,
    lambda_rob: float,
    lambda_ent: float,
) -> Tensor:
    """Compute what DVRP adds to the policy loss at each token (Eq. 4, to be minimised).

    ``-lambda_nec negative_divergence + lambda_rob positive_divergence
    + lambda_ent (negative_entropy + positive_entropy)``.

    Parameters
    ----------
    negative_divergence, positive_divergence
        ``[N]`` float, nats, of each view from the anchor.
    negative_entropy, positive_entropy
        ``[N]`` float, nats, of the distribution given each view.
    lambda_nec, lambda_rob, lambda_ent
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
        negative_divergence=(negative_divergence, "N"),
        positive_divergence=(positive_divergence, "N"),
        negative_entropy=(negative_entropy, "N"),
        positive_entropy=(positive_entropy, "N"),
    )
    divergences = lambda_rob * single(positive_divergence)
    divergences = divergences - lambda_nec * single(negative_divergence)
    entropies = single(negative_entropy) + single(positive_entropy)
    return divergences + lambda_ent * entropies
