"""One rank of test_actor_distributed.py: `python ranks.py MODEL_DIR OUT_FILE`.

Rank and world size come from the environment. Runs every case of `CASES` on this rank's
share of the batch; rank 0 saves the gradients and what the statistics say.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

import torch  # noqa: E402
from areal.api.cli_args import MicroBatchSpec  # noqa: E402
from harness import (  # noqa: E402
    actor_config,
    make_actor,
    prepared,
    trajectory,
    uneven_batch,
    update_gradient,
)

from areal_cppo.core import CPLConfig  # noqa: E402


def batch() -> list[dict]:
    """Six responses; those with a positive advantage are 0, 2 and 4."""
    return [*uneven_batch(), trajectory(6, 9, -1.0, (4, 4))]


# Which responses each of two ranks gets, and the settings.
SHARES = {
    "gated on both": ([0, 1, 3], [2, 4, 5]),
    "gated on the first rank only": ([0, 2, 4], [1, 3, 5]),
    "gated on the second rank only": ([1, 3, 5], [0, 2, 4]),
    "uneven": ([0], [1, 2, 3, 4, 5]),
}
SPECS = {
    "one row": MicroBatchSpec(n_mbs=1),
    "split": MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60),
}
AGGREGATIONS = ("sequence", "token")


def main(model: str, out: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    actor = make_actor(actor_config(Path(model), world))
    results = {}
    for aggregation in AGGREGATIONS:
        cpl = CPLConfig(coef=1.0, aggregation=aggregation)
        actor.config.cpl = actor._perception.config = cpl
        for share, parts in SHARES.items():
            mine = parts[rank] if world > 1 else range(len(batch()))
            # AReaL itself can't cut one response into as many rows as five.
            actor.config.mb_spec = SPECS["one row"]
            items = prepared(actor, [batch()[i] for i in mine])
            for name, spec in SPECS.items():
                actor.config.mb_spec = spec
                gradient, stats = update_gradient(actor, items)
                wanted = ("cpl/view_sequences", "cpl/perception_tokens", "cpl/loss")
                results[aggregation, share, name] = (
                    gradient,
                    {key: stats[f"ppo_actor/update/{key}"] for key in wanted},
                )
    if rank == 0:
        torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
