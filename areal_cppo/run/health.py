"""Watches a run's metrics for what goes wrong without an error, and says so once.

Records of `metrics.jsonl` go in, one line for each thing seen comes out, with what to
do about it; nothing here reads a file, a clock or a tensor. What is looked for is in
`health_learning.py` and `health_cpl.py`.
"""

from __future__ import annotations

from typing import Any

from areal_cppo.run.health_cpl import CPLWatch
from areal_cppo.run.health_history import WINDOW, History
from areal_cppo.run.health_learning import LearningWatch


class RunWatch:
    """Looks at one record after the other and warns.

    Each warning is given once; that of the shortcut again when its share has risen
    twice as far and its divergence has doubled. Metrics that a record lacks, or that
    are not finite, are passed over, so records without CPL never warn of it.

    Parameters
    ----------
    top_fraction
        `cpl.top_fraction`, the ceiling of the selected share.
    tau
        `cpl.tau`.
    """

    def __init__(self, top_fraction: float = 0.5, tau: float = 0.1):
        self._history = History()
        self._watches = (
            LearningWatch(self._history),
            CPLWatch(self._history, top_fraction, tau),
        )

    def look(self, record: dict[str, Any], *, last: bool = False) -> list[str]:
        """One line for each thing that this record, after those before, shows.

        With the `last` one of a run that is shorter than a window, also what the few
        steps show that it has.
        """
        self._history.add(record)
        lines = [line for watch in self._watches for line in watch.look(record)]
        if last and self._history.steps < WINDOW:
            self._history.fewest = 1
            lines += [x for watch in self._watches for x in watch.conclude(record)]
            self._history.fewest = WINDOW
        return lines
