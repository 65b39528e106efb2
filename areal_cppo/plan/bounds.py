"""Upper bounds on throughput, in closed form: which splits are worth a simulation.

No schedule of a setting trains more samples a second than `most_samples_per_second`,
where lengths are fixed; where they are random it holds on average, nearly. A step takes
at least

- the servers' work, over their number: their requests under way are at most those that
  slots, `concurrent` and the staleness bound allow, and the speed at that number is
  taken from the upper concave envelope of the decode curve, which no distribution of
  requests over servers exceeds. Prefill comes on top, and the weight update;
- the trainer's work and the weight update;
- by Little's law, at bound S, 1 / (S + 1) of the time from a group's start to the end
  of the step that trains on it: (S + 1) batches at most are in between;
- by Little's law, batch / `concurrent` of the time from a group's start to its return.

Prefill after interruptions, routing and waiting in queues come on top: that is what the
simulation is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from areal_cppo.plan.rates import Rates, ServerRates
from areal_cppo.plan.setting import Setting


@dataclass(frozen=True)
class StepBound:
    """What a step takes at least, in seconds.

    Attributes
    ----------
    work
        The servers, to make one batch.
    latency
        A group, from its start to its return; where a batch has to wait for all of its
        groups, the slowest of them.
    training
        The trainer, to train on a batch.
    update
        The weight update.
    ahead
        Batches under way or in training at most, the bound + 1.
    turnover
        Batch / `concurrent`.
    """

    work: float
    latency: float
    training: float
    update: float
    ahead: int
    turnover: float

    def seconds(self, efficiency: float = 1.0) -> float:
        """Of the step, if generation is so many times as fast as its bound."""
        work, latency = self.work / efficiency, self.latency / efficiency
        return max(
            work + self.update,
            self.training + self.update,
            (
                max(work if self.ahead == 1 else 0.0, latency)
                + self.training
                + self.update
            )
            / self.ahead,
            latency * self.turnover,
        )


def step_bound(rates: Rates, setting: Setting) -> StepBound:
    """The least that a step can take on average."""
    server = rates.server
    samples = setting.samples
    prompt, response = rates.prompt_tokens.mean, rates.response_tokens.mean
    ahead, concurrent = setting.staleness + 1, setting.groups_at_once(rates)
    under_way = min(ahead * setting.batch, concurrent) * setting.group
    speeds = [setting.speeds.get(i, 1.0) for i in range(setting.servers)]
    # If some servers are slower the fast ones may have all the requests.
    share = under_way / setting.servers if not setting.speeds else under_way
    decode = _envelope(server, min(server.slots, share))
    prefills = setting.batch if server.prefix_caching else samples
    prefill = prefills * prompt / server.prefill_tokens_per_second
    prefill += samples * server.prefill_seconds
    work = samples * response / decode + prefill  # of one server at speed 1
    all_wait = setting.staleness == 0 or setting.admission == "exact"
    longest = rates.response_tokens.longest(samples if all_wait else setting.group)
    first = prompt / server.prefill_tokens_per_second + server.prefill_seconds
    quickest = (longest / _fastest_pace(server) + first) / max(speeds)
    return StepBound(
        work=work / sum(speeds),
        latency=server.request_seconds + quickest + rates.reward_seconds,
        training=rates.trainer.seconds(samples * (prompt + response), setting.ranks),
        update=rates.weights.update_seconds,
        ahead=ahead,
        turnover=setting.batch / concurrent,
    )


def most_samples_per_second(rates: Rates, setting: Setting) -> float:
    """Trained samples a second, at most."""
    return setting.samples / step_bound(rates, setting).seconds()


def _envelope(server: ServerRates, running: float) -> float:
    """The decode curve's upper concave envelope, from 0 up to the slots."""
    points = [(0.0, 0.0)]
    points += [point for point in server.decode if point[0] < server.slots]
    points.append((float(server.slots), server.tokens_per_second(server.slots)))
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    places, speeds = zip(*hull)
    reached = [speed for place, speed in hull if place <= running]
    return max(*reached, float(np.interp(running, places, speeds)))


def _fastest_pace(server: ServerRates) -> float:
    """Tokens/s of one request, at the number of running ones where it is highest."""
    inside = [n for n, _ in server.decode if 1 <= n <= server.slots]
    return max(server.tokens_per_second(n) / n for n in (1, *inside, server.slots))
