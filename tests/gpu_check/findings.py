"""What a step finds: figures, and bounds that hold or don't."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


class Findings:
    """Filled by a step as it goes; what was found before an error is kept.

    Parameters
    ----------
    save
        Called after every change, so that a run that is cut off keeps it.

    Attributes
    ----------
    figures
        By name: numbers, texts, lists and dictionaries of them.
    bounds
        Each with `name`, `found`, `limit` (a text such as `<= 3`) and `held`.
    headline
        The main figure, in a few words.
    """

    def __init__(self, save: Callable[[Findings], None] = lambda _: None):
        self._save = save
        self.figures: dict[str, Any] = {}
        self.bounds: list[dict[str, Any]] = []
        self.headline = ""

    def figure(self, **figures: Any) -> None:
        """Keep figures by name."""
        self.figures |= figures
        self._save(self)

    def most(self, name: str, found: float, limit: float) -> None:
        """A bound from above; what is not a number breaks it."""
        self._bound(name, float(found), f"<= {limit:.6g}", found <= limit)

    def least(self, name: str, found: float, limit: float) -> None:
        """A bound from below; what is not a number breaks it."""
        self._bound(name, float(found), f">= {limit:.6g}", found >= limit)

    def true(self, name: str, found: bool) -> None:
        """Something that has to be so."""
        self._bound(name, bool(found), "true", found)

    def say(self, headline: str) -> None:
        """Set the main figure."""
        self.headline = headline
        self._save(self)

    @property
    def held(self) -> bool:
        """Whether all bounds hold."""
        return all(bound["held"] for bound in self.bounds)

    def _bound(self, name: str, found: Any, limit: str, held: Any) -> None:
        if isinstance(found, float) and not math.isfinite(found):
            found = str(found)  # JSON knows no such number
        bound = {"name": name, "found": found, "limit": limit, "held": bool(held)}
        self.bounds.append(bound)
        self._save(self)
