"""Where the time of a train step goes, from hand-over to hand-over.

Read from what every run records: the controller's clock for the phases of a step, the
trainers' for what is inside an update (on a GPU the GPU's own). An update's *hand-over*
is what its phase takes beyond the work in the trainers: the batch's way to them. Before
it, with the advantages, the batch goes there and back once more.
"""

from __future__ import annotations

from areal_cppo.bench.async_run import Window
from areal_cppo.report.trace import COMPUTING, WAIT, WEIGHTS

_INSIDE = {
    "views drawn": "seconds_perturb",
    "negative view": "seconds_negative_view",
    "positive view": "seconds_positive_view",
    "anchor": "seconds_anchor",
    "backward": "seconds_backward",
    "optimiser": "seconds_optimizer",
}


def step_parts(inside: Window) -> dict[str, float]:
    """Mean seconds of each part of a step, in their order; they add up to the step.

    Parts that no step has are left out; an update is one where no step says more of it.
    """
    parts = {phase.name: sum(inside.times(phase)) for phase in (WAIT, *COMPUTING)}
    if work := inside.total("seconds_inside"):
        within = {name: inside.total(metric) for name, metric in _INSIDE.items()}
        within |= {"other": work - sum(within.values())}
        within = {"hand-over": parts.pop("update") - work} | within
        parts |= {f"update: {name}": seconds for name, seconds in within.items()}
    parts[WEIGHTS.name] = sum(inside.times(WEIGHTS))
    parts["other"] = inside.seconds - sum(parts.values())
    count = len(inside.steps)
    return {name: seconds / count for name, seconds in parts.items() if seconds}
