"""Upper bounds on throughput, in closed form: which splits are worth a simulation.

No schedule of a setting trains more samples a second than `most_samples_per_second`,
for lengths that are their mean:

- servers: their requests under way are at most those that slots, `concurrent` and the
  staleness bound allow, and the speed at that number is taken from the upper concave
  envelope of the decode curve, which no distribution of requests over servers exceeds.
  Prefill takes its share, and in each step servers stand still for the weight update.
- trainer: computes and hands over weights, and never waits.
- at bound 0 one comes after the other.

Prefill after interruptions, tails, routing and waiting in queues come on top: that is
what the simulation is for.
"""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.plan.rates import Rates, ServerRates
from areal_cppo.plan.setting import Setting


@dataclass(frozen=True)
class StepBound:
    """The least that a step can take, in seconds.

    Attributes
    ----------
    generation
        The servers, to make one batch; weight update left out.
    training
        The trainer, to train on it; weight update left out.
    update
        The weight update.
    overlap
        Whether generation and training go side by side.
    """

    generation: float
    training: float
    update: float
    overlap: bool

    @property
    def seconds(self) -> float:
        """Of the step."""
        if self.overlap:
            return max(self.generation, self.training) + self.update
        return self.generation + self.training + self.update


def step_bound(rates: Rates, setting: Setting) -> StepBound:
    """The least that a step can take on average, with all lengths at their mean."""
    server = rates.server
    samples = setting.samples
    prompt, response = rates.prompt_tokens.mean, rates.response_tokens.mean
    ahead = (setting.staleness + 1) * setting.batch
    under_way = min(ahead, setting.groups_at_once(rates)) * setting.group
    speeds = [setting.speeds.get(i, 1.0) for i in range(setting.servers)]
    # If some servers are slower the fast ones may have all the requests.
    share = under_way / setting.servers if not setting.speeds else under_way
    decode = _envelope(server, min(server.slots, share))
    prefills = samples / setting.group if server.prefix_caching else samples
    prefill = prefills * prompt / server.prefill_tokens_per_second
    prefill += samples * server.prefill_seconds
    work = samples * response / decode + prefill  # of one server at speed 1
    return StepBound(
        generation=work / sum(speeds),
        training=rates.trainer.seconds(samples * (prompt + response), setting.ranks),
        update=rates.weights.update_seconds,
        overlap=setting.staleness > 0,
    )


def most_samples_per_second(rates: Rates, setting: Setting) -> float:
    """Trained samples a second, at most."""
    return setting.samples / step_bound(rates, setting).seconds


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
    best = 0.0
    for (x0, y0), (x1, y1) in zip(hull, hull[1:]):
        at = min(max(running, x0), x1)
        if running >= x0:
            best = max(best, y0 + (y1 - y0) * (at - x0) / (x1 - x0))
    return best
