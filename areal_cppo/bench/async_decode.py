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

from areal_cppo.bench.async_run import RecordedRun
from areal_cppo.errors import UserError
from areal_cppo.report.timeline import Interval, union
from areal_cppo.report.trace import ACCEPTED, Session

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


class _Course(NamedTuple):
    """What a server was busy with, from each moment of change to the next."""

    grid: np.ndarray  # the moments, sorted, seconds of training
    open: np.ndarray  # requests at it; none during a weight update
    busy: np.ndarray  # whether the trainer computes
    inside: list[Session]  # accepted responses of the window

    @classmethod
    def of(
        cls,
        sessions: list[Session],
        weights: list[Interval],
        computing: list[Interval],
        window: Interval,
    ) -> _Course:
        """From all of a server's sessions."""
        ends_of = [span for spans in (weights, computing) for span in spans]
        grid = np.unique([*ends_of, *(session.span for session in sessions)])
        starts, ends = np.sort([session.span for session in sessions], axis=0).T
        count = np.searchsorted(starts, grid, "right").astype(float)
        count -= np.searchsorted(ends, grid, "right")
        count[_within(grid, weights)] = 0.0
        inside = [
            session
            for session in sessions
            if session.status == ACCEPTED
            and window[0] <= session.start
            and session.end <= window[1]
        ]
        return cls(grid, count, _within(grid, computing), inside)

    def times(self, chosen: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Mean seconds of each batch of `inside` at each number of open requests in
        `at`, as far as `chosen`."""
        nearest = np.abs(self.open[:, None] - at).argmin(1)
        here = (nearest[:, None] == np.arange(len(at))) & (chosen & (self.open > 0))[
            :, None
        ]
        until = np.cumsum(np.diff(self.grid)[:, None] * here[:-1], axis=0)
        until = np.concatenate([np.zeros((1, len(at))), until])
        starts, ends = np.array([each.span for each in self.inside]).reshape(-1, 2).T
        columns = [
            np.interp(ends, self.grid, sums) - np.interp(starts, self.grid, sums)
            for sums in until.T
        ]
        whole = len(self.inside) // _BATCH * _BATCH
        batches = np.stack(columns, 1)[:whole].reshape(-1, _BATCH, len(at))
        return batches.mean(1)


class Exposure:
    """How long each batch of responses was under way with how many others.

    A row a batch: mean seconds at each of a few numbers of open requests, apart for
    the time in which the trainer computed (`busy`) and the rest (`free`).
    """

    def __init__(self, recorded: RecordedRun, window: Interval, slots: int):
        self.slots = slots
        computing = union(recorded.run.timeline.training)
        weights = union(recorded.weights)
        workers = sorted({session.worker for session in recorded.sessions})
        courses = []
        for worker in workers:
            own = [each for each in recorded.sessions if each.worker == worker]
            courses.append(_Course.of(own, weights, computing, window))
        self.at = _representatives(courses)
        free = [course.times(~course.busy, self.at) for course in courses]
        busy = [course.times(course.busy, self.at) for course in courses]
        self.free, self.busy = np.concatenate(free), np.concatenate(busy)
        self.worker = np.repeat(workers, [len(rows) for rows in free])  # of a row
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


def _within(grid: np.ndarray, spans: list[Interval]) -> np.ndarray:
    """Whether each moment lies in one of the spans, which are apart and sorted."""
    bounds = np.array(spans).reshape(-1)
    return np.searchsorted(bounds, grid, "right") % 2 == 1


def _representatives(courses: list[_Course]) -> np.ndarray:
    """A few numbers of open requests, each for an equal share of the time."""
    count = np.concatenate([course.open[:-1] for course in courses])
    length = np.concatenate([np.diff(course.grid) for course in courses])
    order = np.argsort(count[count > 0])
    count, length = count[count > 0][order], length[count > 0][order]
    place = np.cumsum(length) / length.sum()
    found = []
    for k in range(_POINTS):
        part = (place > k / _POINTS) & (place <= (k + 1) / _POINTS)
        if part.any():
            found.append(float(np.average(count[part], weights=length[part])))
    return np.unique(np.round(found, 3))
