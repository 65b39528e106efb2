"""How fast a server decodes, fitted from the sessions of a run.

A run knows when each response was under way and how many others were, but not token by
token. With n requests running a token takes `a + b * n` seconds; so a response of L
tokens, which spends the time t(n) with n running, has L = sum over n of
t(n) / (a + b * n). Where more requests are open than a server has slots, each of them
is taken to run for its share of the time. Over batches of responses, which have about
the mean length, a and b are those that fit best, with a curve through the mean.
Prefilling is in it, as part of each response's time. What a run never did, say few
requests at a time, is extrapolated: `bench rollout` measures it.

Where trainer and servers share processors, the time in which the trainer computes
counts only in part; by how much is fitted, too. Servers may differ in speed, but for
one factor each they have the same curve: that of the fastest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from areal_cppo.bench.async_run import ACCEPTED, RecordedRun
from areal_cppo.errors import UserError
from areal_cppo.report.timeline import union

SLOWDOWNS = np.arange(1.0, 4.01, 0.05)
# Of b to a: none of a token's time, to nearly all of it, grows with the requests.
_RATIOS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 41)])
_BATCH = 16  # responses whose mean length is taken for their length
_POINTS = 12  # numbers of open requests that are told apart


class Decoding(NamedTuple):
    """What was fitted.

    Attributes
    ----------
    curve
        Running requests, and tokens/s of all, of the fastest server.
    slowdown
        Of servers while the trainer computes.
    speeds
        Of the servers that are slower: number, and speed as a share of the fastest's.
    """

    curve: tuple[tuple[float, float], ...]
    slowdown: float
    speeds: dict[int, float]


class Exposure:
    """How long each batch of responses was under way with how many others.

    A row a batch: mean seconds at each of a few numbers of open requests, apart for
    the time in which the trainer computed (`busy`) and the rest (`free`).
    """

    def __init__(self, recorded: RecordedRun, window, slots: int):
        self.slots = slots
        computing = union(
            span for span in recorded.run.timeline.training if span[2] != "save"
        )
        rows_free, rows_busy, numbers = [], [], []
        workers = sorted({s.worker for s in recorded.sessions})
        for worker in workers:
            own = [s for s in recorded.sessions if s.worker == worker]
            inside = [
                s
                for s in own
                if s.status == ACCEPTED and window[0] <= s.start and s.end <= window[1]
            ]
            grid, counts, busy = _segments(own, recorded.weights, computing)
            numbers.append((grid, counts, busy, inside))
        self.at = _representatives(numbers)
        for grid, counts, busy, inside in numbers:
            for rows, chosen in ((rows_free, ~busy), (rows_busy, busy)):
                rows.append(_times(grid, counts, chosen, self.at, inside))
        self.free, self.busy = (np.concatenate(rows) for rows in (rows_free, rows_busy))
        self.worker = np.repeat(workers, [len(rows) for rows in rows_free])  # of a row
        if not len(self.free):
            raise UserError(
                f"--rates: expected at least {_BATCH} responses that were accepted "
                "after the warm-up, found fewer; train longer"
            )

    def fit(self, length: float, curve, shares: bool) -> Decoding:
        """Decode curve, slowdown and speeds.

        Parameters
        ----------
        length
            Mean tokens of a response.
        curve
            Measured elsewhere; None: fit it, too.
        shares
            Whether trainer and servers share processors.
        """
        best = None
        running = np.minimum(self.at, self.slots)
        share = running / self.at
        for slowdown in SLOWDOWNS if shares else (1.0,):
            exposure = self.free + self.busy / slowdown
            for ratio in _RATIOS if curve is None else (None,):
                if ratio is None:
                    points, rates = zip(*curve)
                    known = np.interp(running, points, rates)
                    pace = known / np.maximum(running, points[0]) * share
                else:
                    pace = share / (1 + ratio * running)
                tokens = exposure @ pace
                factors = self._factors(tokens, length)
                if ratio is not None:
                    tokens *= factors[self.worker]
                error = float(((tokens - length) ** 2).sum())
                if best is None or error < best[0] * (1 - 1e-9):
                    best = error, float(slowdown), ratio, factors
        _, slowdown, ratio, factors = best
        fastest = np.nanmax(factors)
        speeds = {
            int(worker): float(factor / fastest)
            for worker, factor in enumerate(factors)
            if factor < fastest
        }
        if curve is not None:
            return Decoding(curve, slowdown, speeds)
        numbers = [2**k for k in range(self.slots.bit_length())]
        fitted = tuple(
            (float(n), float(n * fastest / (1 + ratio * n)))
            for n in sorted({*numbers, self.slots})
        )
        return Decoding(fitted, slowdown, speeds)

    def _factors(self, tokens: np.ndarray, length: float) -> np.ndarray:
        """By worker: what makes its mean tokens the responses'; not a number where it
        has no row."""
        sums = np.bincount(self.worker, tokens)
        with np.errstate(invalid="ignore", divide="ignore"):
            return length * np.bincount(self.worker) / sums


def _segments(sessions, weights, computing):
    """Moments, and from each to the next: open requests, and whether the trainer
    computes; no request is open during a weight update."""
    moments = {s.start for s in sessions} | {s.end for s in sessions}
    moments |= {t for spans in (weights, computing) for span in spans for t in span[:2]}
    grid = np.array(sorted(moments))
    starts = np.sort([s.start for s in sessions])
    ends = np.sort([s.end for s in sessions])
    counts = np.searchsorted(starts, grid, "right") - np.searchsorted(
        ends, grid, "right"
    )
    counts = counts.astype(float)
    counts[_within(grid, weights)] = 0.0
    return grid, counts, _within(grid, computing)


def _within(grid: np.ndarray, spans) -> np.ndarray:
    inside = np.zeros(len(grid), dtype=bool)
    for start, end in union(spans):
        inside |= (grid >= start) & (grid < end)
    return inside


def _representatives(numbers) -> np.ndarray:
    """A few numbers of open requests, each for an equal share of the time."""
    counts, lengths = [], []
    for grid, running, _, _ in numbers:
        counts.append(running[:-1])
        lengths.append(np.diff(grid))
    count, length = np.concatenate(counts), np.concatenate(lengths)
    order = np.argsort(count[count > 0])
    count, length = count[count > 0][order], length[count > 0][order]
    place = np.cumsum(length) / length.sum()
    found = []
    for k in range(_POINTS):
        part = (place > k / _POINTS) & (place <= (k + 1) / _POINTS)
        if part.any():
            found.append(float(np.average(count[part], weights=length[part])))
    return np.unique(np.round(found, 3))


def _times(grid, counts, chosen, at, inside) -> np.ndarray:
    """Mean seconds of each batch of `inside` at each number in `at`, where `chosen`."""
    nearest = np.abs(counts[:, None] - at[None, :]).argmin(1)
    length = np.append(np.diff(grid), 0.0)
    starts = np.array([s.start for s in inside])
    ends = np.array([s.end for s in inside])
    columns = []
    for k in range(len(at)):
        here = length * ((nearest == k) & chosen & (counts > 0))
        sums = np.concatenate([[0.0], np.cumsum(here)[:-1]])
        columns.append(np.interp(ends, grid, sums) - np.interp(starts, grid, sums))
    times = np.stack(columns, 1) if len(inside) else np.zeros((0, len(at)))
    whole = len(times) // _BATCH * _BATCH
    return times[:whole].reshape(-1, _BATCH, len(at)).mean(1)
