"""Settings of the Contrastive Perception Loss: ``actor.cpl`` in the YAML.

Plain dataclasses that OmegaConf accepts as structured configs. Defaults are the
published ones (arXiv 2601.00501 and its code); the numbered deviations are

1. ``divergence`` is the full-vocabulary KL, as the paper's text has it; the published
   code uses the sampled-token estimators ``k3`` (verl) and ``k1`` (its AReaL fork).
2. ``aggregation`` does not depend on packing; the published AReaL code averages over
   each micro-batch.
3. ``staleness`` weights the loss for asynchronous training; the published code does
   not. With every token on-policy the weight is exactly 1.
4. ``responses`` may send only some responses of a group through the views, drawn anew
   for each policy version; the default is all of them.

``configs/triangles_published.yaml`` sets these back to the published verl recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from areal_cppo.checks import (
    FRACTION,
    POSITIVE_FRACTION,
    Bool,
    Choice,
    Instance,
    Number,
    Subset,
    check_fields,
    refusal,
    setting,
)
from areal_cppo.core.divergence import KINDS
from areal_cppo.core.perturbation_base import Perturbation
from areal_cppo.core.perturbations import PERTURBATIONS

GATES = ("positive_advantage", "none")
AGGREGATIONS = ("sequence", "token")
SELECTIONS = ("entropy_gain", "entropy_rise", "random", "all")
QUOTAS = ("ceil", "floor")
BRANCHES = ("anchor", "positive", "negative")
RESPONSES = Number(low=1, high=1_000_000, integer=True, optional=True)


def parse_perturbations(
    specs: Sequence[Mapping[str, Any]], field: str = "views"
) -> tuple[Perturbation, ...]:
    """Turn configured mappings into perturbations.

    Parameters
    ----------
    specs
        At least one mapping with a ``name`` of :data:`PERTURBATIONS` and any of that
        perturbation's parameters; the rest take their defaults.
    field
        Path of the list in an error, such as ``cpl.views.negative``.

    Returns
    -------
    tuple of Perturbation
        One per mapping, in order.

    Raises
    ------
    ValueError
        One line naming the entry, what it should be and how to mend it.
    """
    known = ", ".join(sorted(PERTURBATIONS))
    is_list = isinstance(specs, Sequence) and not isinstance(specs, str)
    if not is_list or not specs:
        fix = f"list mappings with a name, one of {known}"
        raise refusal(field, "at least one perturbation", specs, fix)
    parsed = []
    for index, spec in enumerate(specs):
        where = f"{field}[{index}]"
        if not isinstance(spec, Mapping):
            fix = "write it as name: ... and its parameters"
            raise refusal(where, "a mapping with a name", spec, fix)
        cls = PERTURBATIONS.get(str(spec.get("name")))
        if cls is None:
            fix = "correct the name"
            raise refusal(f"{where}.name", f"one of {known}", spec.get("name"), fix)
        parameters = {key: value for key, value in spec.items() if key != "name"}
        names = sorted(parameter.name for parameter in fields(cls))
        for key in parameters:
            if key not in names:
                expected = f"a parameter of {cls.name} ({', '.join(names)})"
                raise refusal(where, expected, key, "correct or remove it")
        try:
            parsed.append(cls(**parameters))
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
    return tuple(parsed)


def require_perturbed(specs: list[dict[str, Any]], field: str) -> None:
    """Refuse perturbations that are none, or of which none is ever applied.

    Parameters
    ----------
    specs
        As :func:`parse_perturbations` takes them, of a negative view.
    field
        Path of the list, such as ``cpl.views.negative``.

    Raises
    ------
    ValueError
        Every negative view would equal its anchor.
    """
    perturbations = parse_perturbations(specs, field)
    if all(perturbation.probability == 0 for perturbation in perturbations):
        raise refusal(
            field,
            "at least one perturbation of probability > 0",
            0.0,
            "give one a probability of up to 1, the default",
        )


def published_positive_views() -> list[dict[str, Any]]:
    """Return the published positive set, the Gaussian blur of the fork included."""
    return [
        {
            "name": "color_jitter",
            "brightness": [0.2, 1.3],
            "contrast": [0.2, 1.8],
            "saturation": [0.2, 1.8],
        },
        {"name": "perspective", "distortion": 0.2, "probability": 0.5},
        {"name": "rotation", "degrees": 10.0},
        {"name": "gaussian_blur", "kernel_size": 3, "sigma": 1.0},
    ]


def published_negative_views() -> list[dict[str, Any]]:
    """Return the published negative set: noise patches, or a zoom-crop."""
    return [
        {"name": "noise_patches", "count": 50, "side": [0.05, 0.15]},
        {"name": "zoom_crop", "scale": [0.6, 0.7]},
    ]


@dataclass
class StalenessConfig:
    """How a token sampled by an older policy counts in the loss.

    Raises
    ------
    ValueError
        A value is out of range or of a wrong type.
    """

    PREFIX: ClassVar[str] = "cpl.staleness."  # of a field's name in an error

    importance_cap: float | None = setting(
        5.0,
        # Below 1 the cap would shrink on-policy tokens, whose weight must be 1.
        Number(low=1, high=1e6, optional=True),
        "upper limit of the importance weight pi_proximal / pi_behaviour; null: none",
    )
    decay: float = setting(
        1.0,
        FRACTION,
        "factor on a token's weight per policy version of staleness",
    )
    max_staleness: int | None = setting(
        None,
        Number(low=0, high=1_000_000, integer=True, optional=True),
        "tokens staler than this many policy versions count 0; null: no limit",
    )
    importance_weight: bool = setting(
        True,
        Bool(),
        "whether tokens get an importance weight; false: stale ones count as fresh",
    )

    def __post_init__(self) -> None:
        check_fields(self, self.PREFIX)


@dataclass
class ViewsConfig:
    """The perturbations of which one is drawn, uniformly, for each image.

    Each entry is a mapping with a ``name`` and that perturbation's parameters, see
    :mod:`areal_cppo.core.perturbations`.

    Raises
    ------
    ValueError
        An unknown perturbation or parameter, a value out of range, or negatives of
        which none is ever applied.
    """

    positive: list[dict[str, Any]] = field(
        default_factory=published_positive_views,
        metadata={"help": "perturbations that preserve the image's information"},
    )
    negative: list[dict[str, Any]] = field(
        default_factory=published_negative_views,
        metadata={"help": "perturbations that remove the image's information"},
    )

    def __post_init__(self) -> None:
        parse_perturbations(self.positive, "cpl.views.positive")
        require_perturbed(self.negative, "cpl.views.negative")


@dataclass
class CPLConfig:
    """The Contrastive Perception Loss (arXiv 2601.00501), ``actor.cpl`` in the YAML.

    Raises
    ------
    ValueError
        A value is out of range or of a wrong type.
    """

    coef: float = setting(
        0.01,
        Number(low=0, high=1000),
        "weight of the loss beside the policy loss; 0 turns it, and its views, off",
    )
    tau: float = setting(
        0.1,
        Number(low=1e-6, high=1e6),
        "temperature of the contrast between the two divergences",
    )
    top_fraction: float = setting(
        0.5,
        POSITIVE_FRACTION,
        "share of a response's positive-gain tokens that is selected",
    )
    quota: str = setting(
        "ceil",
        Choice(QUOTAS),
        "how that share is rounded; floor, as in the published verl code, takes >= 1",
    )
    min_gain: float = setting(
        0.0,
        FRACTION,
        "least rise of a selected token's entropy, in units of log(vocabulary size)",
    )
    divergence: str = setting(
        "kl",
        Choice(KINDS),
        "kl: over the full vocabulary; k1, k2, k3: its sampled-token estimators",
    )
    gate: str = setting(
        "positive_advantage",
        Choice(GATES),
        "which tokens may count: those with advantage > 0, or all of them",
    )
    aggregation: str = setting(
        "sequence",
        Choice(AGGREGATIONS),
        "sequence: mean over responses of their tokens' mean; token: mean over tokens",
    )
    responses: int | None = setting(
        None,
        RESPONSES,
        "at most so many gated responses of a group go through the views, drawn at "
        "random, each counted for those that aren't; null: all",
    )
    selection: str = setting(
        "entropy_gain",
        Choice(SELECTIONS),
        "how perception tokens are chosen: by the published entropy gain, or by the "
        "rise of entropy itself; random and all are controls",
    )
    grad: list[str] = setting(
        list(BRANCHES),
        Subset(BRANCHES),
        "the distributions that the loss sends gradient to",
    )
    views: ViewsConfig = setting(
        ViewsConfig,
        Instance(ViewsConfig),
        "the perturbations that make the two views",
    )
    staleness: StalenessConfig = setting(
        StalenessConfig,
        Instance(StalenessConfig),
        "weights of tokens sampled by an older policy",
    )

    def __post_init__(self) -> None:
        check_fields(self, "cpl.")

    @property
    def has_effect(self) -> bool:
        """Whether the loss has a weight."""
        return self.coef > 0

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
        return ""
