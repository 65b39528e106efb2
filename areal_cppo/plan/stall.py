"""When stock AReaL 1.0.4 stops for good: each rollout worker bounds its share, too.

The controller starts (S + v + 1) * B groups up to version v, of batch B and bound S.
Each of the n workers, one a server, has a staleness manager of its own, of a batch of
`B // n` (`WorkflowExecutor.initialize`). If n does not divide B the workers together
start fewer than the trainer needs, and one day it waits for ever. More servers than B
are safe: a worker's batch is at least 1.
"""

from __future__ import annotations


def stall_step(batch: int, servers: int, staleness: int) -> int | None:
    """The number, from 1, of the first train step whose batch never comes; None: none.

    Parameters
    ----------
    batch
        Groups a train step.
    servers
        Rollout workers among which groups go round.
    staleness
        The bound.
    """
    share = max(1, batch // servers) * servers
    if share >= batch:
        return None
    # Version v is the first with share * (staleness + v + 1) < batch * (v + 1).
    return (share * staleness) // (batch - share) + 1
