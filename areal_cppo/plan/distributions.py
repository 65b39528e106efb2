"""How long prompts and responses are: distributions of a number of tokens.

    {"kind": "empirical", "values": [31, 40, 40, ...]}
    {"kind": "lognormal", "median": 6000, "sigma": 0.9, "maximum": 27648}
    {"kind": "fixed", "value": 512}

A lognormal's `sigma` is the standard deviation of the logarithm. What would be longer
than `maximum` is cut there, as generation is at its limit of new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log
from statistics import NormalDist
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, BeforeValidator, PlainValidator, TypeAdapter

from areal_cppo.plan.fields import (
    AtLeastOne,
    Count,
    NotNegative,
    Positive,
    Strict,
    refusal,
    show,
)

_NORMAL = NormalDist()
_QUANTILES = 512


def _some(values: Any) -> Any:
    if not isinstance(values, list | tuple) or not values:
        raise refusal(
            "a list of at least one length",
            "give the lengths that were seen, in tokens",
        )
    return values


_Lengths = Annotated[
    tuple[Annotated[AtLeastOne, AfterValidator(round)], ...], BeforeValidator(_some)
]


@dataclass(frozen=True)
class Fixed(Strict):
    """Always the same."""

    kind: ClassVar[str] = "fixed"

    value: Count

    @property
    def mean(self) -> float:
        return float(self.value)

    @property
    def maximum(self) -> int:
        return self.value

    def longest(self, number: int) -> float:
        """Mean of the longest of so many."""
        return float(self.value)

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Int `[size]`, each >= 1."""
        return np.full(size, self.value)


@dataclass(frozen=True)
class Empirical(Strict):
    """One of the lengths that were seen, each as likely as any."""

    kind: ClassVar[str] = "empirical"

    values: _Lengths

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def maximum(self) -> int:
        return max(self.values)

    @lru_cache(maxsize=64)  # asked for each split
    def longest(self, number: int) -> float:
        """Mean of the longest of so many."""
        values, counts = np.unique(self.values, return_counts=True)
        below = np.concatenate([[0.0], np.cumsum(counts) / len(self.values)])
        return float(values @ np.diff(below**number))

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Int `[size]`, each >= 1."""
        return rng.choice(np.array(self.values), size)


@dataclass(frozen=True)
class Lognormal(Strict):
    """A long tail, cut at `maximum`."""

    kind: ClassVar[str] = "lognormal"

    median: Positive
    sigma: NotNegative
    maximum: Count

    @property
    def mean(self) -> float:
        """Of min(X, maximum), in closed form, but for rounding to whole tokens."""
        mu, most = log(self.median), log(self.maximum)
        if not self.sigma:
            return min(self.median, float(self.maximum))
        cut = (most - mu) / self.sigma
        below = exp(mu + self.sigma**2 / 2) * _NORMAL.cdf(cut - self.sigma)
        return below + self.maximum * (1 - _NORMAL.cdf(cut))

    @lru_cache(maxsize=64)  # asked for each split
    def longest(self, number: int) -> float:
        """Mean of the longest of so many, by quantiles."""
        ranks = ((i + 0.5) / _QUANTILES for i in range(_QUANTILES))
        scores = (_NORMAL.inv_cdf(rank ** (1 / number)) for rank in ranks)
        lengths = (self.median * exp(self.sigma * z) for z in scores)
        return sum(min(length, self.maximum) for length in lengths) / _QUANTILES

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Int `[size]`, each >= 1."""
        drawn = rng.lognormal(log(self.median), self.sigma, size)
        return np.clip(np.rint(drawn), 1, self.maximum).astype(int)


_ADAPTERS = {made.kind: TypeAdapter(made) for made in (Empirical, Fixed, Lognormal)}


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        raise refusal(
            "an object of named fields", "see docs/throughput.md for the format"
        )
    if "kind" not in value:
        raise refusal("the field 'kind'", "add it", found="none")
    fields = dict(value)
    kind = fields.pop("kind")
    if kind not in tuple(_ADAPTERS):  # of any type
        raise refusal(f"one of {', '.join(_ADAPTERS)}", at=".kind", found=show(kind))
    return _ADAPTERS[kind].validate_python(fields)


Distribution = Annotated[Fixed | Empirical | Lognormal, PlainValidator(_read)]
