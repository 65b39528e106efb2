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
from math import erf, exp, log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from areal_cppo.errors import UserError
from areal_cppo.plan.fields import Fields, number, show

_QUANTILES = 512


@dataclass(frozen=True)
class Fixed:
    """Always the same."""

    value: int

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

    def as_json(self) -> dict[str, Any]:
        return {"kind": "fixed", "value": self.value}


@dataclass(frozen=True)
class Empirical:
    """One of the lengths that were seen, each as likely as any."""

    values: tuple[int, ...]

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

    def as_json(self) -> dict[str, Any]:
        return {"kind": "empirical", "values": list(self.values)}


@dataclass(frozen=True)
class Lognormal:
    """A long tail, cut at `maximum`."""

    median: float
    sigma: float
    maximum: int

    @property
    def mean(self) -> float:
        """Of min(X, maximum), in closed form, but for rounding to whole tokens."""
        mu, most = log(self.median), log(self.maximum)
        if not self.sigma:
            return min(self.median, float(self.maximum))
        cut = (most - mu) / self.sigma
        below = exp(mu + self.sigma**2 / 2) * _normal(cut - self.sigma)
        return below + self.maximum * (1 - _normal(cut))

    @lru_cache(maxsize=64)  # asked for each split
    def longest(self, number: int) -> float:
        """Mean of the longest of so many, by quantiles."""
        normal = NormalDist()
        ranks = ((i + 0.5) / _QUANTILES for i in range(_QUANTILES))
        scores = (normal.inv_cdf(rank ** (1 / number)) for rank in ranks)
        lengths = (self.median * exp(self.sigma * z) for z in scores)
        return sum(min(length, self.maximum) for length in lengths) / _QUANTILES

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Int `[size]`, each >= 1."""
        drawn = rng.lognormal(log(self.median), self.sigma, size)
        return np.clip(np.rint(drawn), 1, self.maximum).astype(int)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "lognormal",
            "median": self.median,
            "sigma": self.sigma,
            "maximum": self.maximum,
        }


Distribution = Fixed | Empirical | Lognormal


def parse_distribution(fields: Fields) -> Distribution:
    """From an object of the rates file.

    Raises
    ------
    UserError
        A field is missing, unknown or out of range.
    """
    kind = fields.choice("kind", ("empirical", "fixed", "lognormal"))
    if kind == "fixed":
        found: Distribution = Fixed(fields.whole("value"))
    elif kind == "lognormal":
        median = fields.number("median", above=True)
        sigma = fields.number("sigma")
        found = Lognormal(median, sigma, fields.whole("maximum"))
    else:
        values, name = fields.take("values"), fields.name("values")
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{name}: expected a list of at least one length, found "
                f"{show(values)}; give the lengths that were seen, in tokens"
            )
        numbers = (number(value, f"{name}[{i}]", 1.0) for i, value in enumerate(values))
        found = Empirical(tuple(round(value) for value in numbers))
    fields.finish()
    return found


def _normal(z: float) -> float:
    """Standard normal distribution function."""
    return 0.5 * (1 + erf(z / sqrt(2)))
