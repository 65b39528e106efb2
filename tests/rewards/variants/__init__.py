r"""Answers whose verdict is known by construction: hypothesis strategies, one a kind.

Each kind draws a value, writes it in the ways that count as equal, and changes one
thing of it for the near misses, which exact arithmetic tells from it. What is doubtful
is among neither: `1/2` for `1:2`, `\frac{\pi}{6}` for `30^\circ`, `(1,2)` for `1, 2` or
for `1<x<2`, words in place of letters.
"""

# Each registers its kinds.
from tests.rewards.variants import numbers, relations, texts, units, values  # noqa: F401
from tests.rewards.variants.writing import KINDS, Pair, pairs

__all__ = ["KINDS", "Pair", "pairs"]
