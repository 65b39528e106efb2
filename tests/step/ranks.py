"""One rank of test_actor_distributed.py: `python ranks.py MODEL_DIR OUT_FILE`.

Rank and world size come from the environment. Runs every case of `CASES` on this rank's
share of the batch; rank 0 saves the gradients and what the statistics say.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

import torch  # noqa: E402
from areal.api.cli_args import MicroBatchSpec  # noqa: E402
from areal.utils.data import concat_padded_tensors  # noqa: E402

from areal_cppo.core import (  # noqa: E402
    CPLConfig,
    DVRPConfig,
    PAPOConfig,
    PGPOConfig,
    VPPOConfig,
)
from areal_cppo.step.gate import Gated  # noqa: E402
from areal_cppo.step.metrics import record_batch  # noqa: E402
from areal_cppo.step.minibatches import minibatches  # noqa: E402
from tests.step.harness import (  # noqa: E402
    GROUP_SIZES,
    actor_config,
    grouped_batch,
    in_groups,
    make_actor,
    prepared,
    text_only,
    trajectory,
    uneven_batch,
    update_gradient,
)

SIGNALS = [f"cppo/equal_rewards{kind}" for kind in ("", "_zero", "_correct")]
SIGNALS += ["cppo/cut_off"]
OTHERS = {
    "papo": PAPOConfig,
    "vppo": VPPOConfig,
    "dvrp": DVRPConfig,
    "pgpo": PGPOConfig,
}
ONE_ROW = MicroBatchSpec(n_mbs=1)
SPLIT = MicroBatchSpec(n_mbs=1, max_tokens_per_mb=60)


def batch() -> list[dict]:
    """Nine responses; 0, 2, 4, 6 and 7 have a positive advantage, 7 and 8 no image."""
    return [
        *uneven_batch(),
        trajectory(6, 9, -1.0, (4, 4)),
        trajectory(7, 14, 1.0, (4, 4), (2, 6)),
        text_only(trajectory(8, 10, 1.0)),
        text_only(trajectory(9, 5, -1.0)),
    ]


# Which rank a response goes to, by world size.
SHARES = {
    "spread": {2: (0, 1, 0, 1, 1, 0, 1, 0, 1), 4: (0, 1, 2, 3, 0, 1, 3, 2, 2)},
    "gated on the first rank only": {
        2: (0, 1, 0, 1, 0, 1, 0, 0, 1),
        4: (0, 1, 0, 2, 0, 3, 0, 0, 1),
    },
    "gated on the last rank only": {
        2: (1, 0, 1, 0, 1, 0, 1, 1, 0),
        4: (3, 0, 3, 1, 3, 2, 3, 3, 0),
    },
    "one on the first rank, most on the last": {
        2: (0, 1, 1, 1, 1, 1, 1, 1, 1),
        4: (0, 1, 2, 3, 3, 3, 3, 3, 3),
    },
    "no image on the first rank": {
        2: (1, 1, 1, 1, 1, 1, 1, 0, 0),
        4: (1, 1, 2, 2, 3, 3, 3, 0, 0),
    },
}
# The same for `grouped_batch`: groups of 4, 3, 2, 1 and, without an image, 2.
GROUP_SHARES = {
    "groups cut": {
        2: (0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1),
        4: (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3),
    },
    "groups whole": {
        2: (0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1),
        4: (0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3),
    },
    "all views on the first rank": {
        2: (0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1),
        4: (0, 1, 0, 2, 3, 0, 1, 0, 0, 0, 2, 3),
    },
}


@dataclass
class Case:
    """One update: an objective's settings, a share, a micro-batch specification.

    `settings` are those of the objective's own block, such as `actor.papo`.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    share: str = "spread"
    spec: MicroBatchSpec = field(default_factory=lambda: SPLIT)
    objective: str = "cppo"
    poisoned_rank: int | None = None  # whose negative views are not a number

    def configure(self, config) -> None:
        """Set the objective and its settings in an actor's configuration."""
        config.objective = self.objective
        if self.objective in OTHERS:
            setattr(config, self.objective, OTHERS[self.objective](**self.settings))
        else:
            config.cpl = CPLConfig(**({"coef": 1.0} | self.settings))

    def batch(self) -> list[dict]:
        """Of all ranks."""
        return grouped_batch() if self.share in GROUP_SHARES else batch()

    def owners(self, world: int) -> tuple[int, ...]:
        """Which rank each response of it goes to."""
        return (SHARES | GROUP_SHARES)[self.share].get(world, (0,) * len(self.batch()))


CASES = (
    {
        f"{aggregation}, {share}, {name}": Case(
            {"aggregation": aggregation}, share, spec
        )
        for aggregation in ("sequence", "token")
        for share in SHARES
        for name, spec in {"one row": ONE_ROW, "split": SPLIT}.items()
    }
    | {
        f"{aggregation}, {share}, {name}": Case(
            {"aggregation": aggregation}, share, spec
        )
        for aggregation, name, spec in (
            ("sequence", "one row", ONE_ROW),
            ("token", "split", SPLIT),
        )
        for share in GROUP_SHARES
    }
    | {
        "random tokens": Case({"selection": "random"}),
        "all tokens": Case({"selection": "all", "divergence": "k3"}),
        "no gate": Case({"gate": "none"}),
        "anchor only": Case({"grad": ["anchor"]}),
        "floor on the gain": Case({"min_gain": 0.01}),
        "policy loss alone": Case(objective="grpo"),
        "CPL alone": Case(objective="cpl"),
        "poisoned first rank": Case(poisoned_rank=0, spec=ONE_ROW),
        "poisoned last rank": Case(poisoned_rank=-1, spec=ONE_ROW),
    }
    | {
        f"PAPO, {name}, {share}": Case(settings, share, SPLIT, "papo")
        for name, settings in {
            "token": {"gamma": 1.0},
            "sequence": {
                "gamma": 1.0,
                "eta2": 0.5,
                "aggregation": "sequence",
                "negative_grad": True,
            },
        }.items()
        for share in ("spread", "no image on the first rank", "groups cut")
    }
    | {
        f"VPPO, {share}": Case({"beta_min": 0.5}, share, SPLIT, "vppo")
        for share in ("spread", "no image on the first rank", "groups cut")
    }
    | {
        f"one response a group, {name}": Case(
            {"responses": 1, **settings}, "groups whole", SPLIT, objective
        )
        for name, objective, settings in (
            ("sequence", "cppo", {}),
            ("token", "cppo", {"aggregation": "token"}),
            ("PAPO", "papo", {"gamma": 1.0}),
        )
    }
    | {
        "PAPO, one row": Case({"gamma": 1.0}, spec=ONE_ROW, objective="papo"),
        "VPPO, one row": Case({"top_fraction": 0.2}, spec=ONE_ROW, objective="vppo"),
        "DVRP, no image on the first rank": Case(
            {"lambda_nec": 1.0}, "no image on the first rank", objective="dvrp"
        ),
        "PGPO, groups cut": Case({}, "groups cut", objective="pgpo"),
        "PAPO, poisoned": Case(
            {"negative_grad": True, "eta2": 0.1},
            spec=ONE_ROW,
            objective="papo",
            poisoned_rank=-1,
        ),
    }
)
STATS = (
    "cpl/gated_responses",
    "cpl/view_sequences",
    "cpl/perception_tokens",
    "cpl/loss",
    "cpl/unselected_divergence",
    "cpl/skipped_responses",
    "papo/gated_responses",
    "papo/loss",
    "papo/divergence",
    "papo/skipped_responses",
    "pgpo/raised_tokens",
    "pgpo/weight/max",
    "dvrp/loss",
    "dvrp/positive_divergence",
    "vppo/gated_responses",
    "vppo/dependency",
    "vppo/kept_tokens",
    "vppo/factor/max",
)


def run(actor, case: Case, rank: int, world: int):
    case.configure(actor.config)
    owners = case.owners(world)
    owned = zip(case.batch(), owners, strict=True)
    mine = [item for item, owner in owned if owner == rank]
    actor.config.mb_spec = ONE_ROW
    items = prepared(actor, mine)
    if case.settings.get("responses"):
        groups = [i for i, size in enumerate(GROUP_SIZES) for _ in range(size)]
        own = Counter(g for g, owner in zip(groups, owners) if owner == rank)
        items = in_groups(items, [own[g] for g in sorted(own)])
    actor.config.mb_spec = case.spec
    original = Gated.pixel_values

    def poisoned(self, row, kind):
        view = original(self, row, kind)
        return view * float("nan") if kind == "negative" else view

    if case.poisoned_rank is not None and case.poisoned_rank % world == rank:
        Gated.pixel_values = poisoned
    try:
        gradient, stats = update_gradient(actor, items)
    finally:
        Gated.pixel_values = original
    wanted = {f"ppo_actor/update/{key}" for key in STATS} | {"cppo/gain_p50"}
    return gradient, {key: stats[key] for key in wanted & stats.keys()}


# By group: without a signal (correct, 0, between, correct), with one, and of one alone.
GROUPS = ([0.9] * 2, [0.0] * 3, [0.1] * 2, [1.0] * 4, [0.0, 1.0], [0.0])


def signals(actor, rank: int, world: int) -> dict[str, float]:
    """What is recorded of groups that lie on the ranks in turn; on some none may."""
    for i, rewards in enumerate(GROUPS):
        if i % world == rank:
            items = [trajectory(j, 3, reward) for j, reward in enumerate(rewards)]
            keys = ("rewards", "versions", "loss_mask")
            group = {key: torch.cat([item[key] for item in items]) for key in keys}
            record_batch([group], version=0, correct_reward=0.5, longest=3)
    stats = actor.export_stats()
    return {key: value for key, value in stats.items() if key in SIGNALS}


# Which rank the groups of `grouped_batch` go to: 4, 3, 2, 1 and 2 responses.
GROUP_OWNERS = {1: (0,) * 5, 2: (0, 1, 1, 1, 1), 4: (0, 1, 2, 3, 3)}


def divided(actor, wanted: int, rank: int, world: int):
    """Gradients of an update's mini-batches, a row each, and their tokens."""
    Case(objective="grpo").configure(actor.config)
    actor.config.mb_spec = SPLIT
    responses = iter(prepared(actor, grouped_batch()))
    groups = [
        concat_padded_tensors([next(responses) for _ in range(n)])
        for n in (4, 3, 2, 1, 2)
    ]
    owned = zip(groups, GROUP_OWNERS[world], strict=True)
    mine = [group for group, owner in owned if owner == rank]
    dealt = minibatches(mine, wanted, actor._ranks, share_prompts=True)
    tokens = [sum(int(group["loss_mask"].sum()) for group in some) for some in dealt]
    actor.config.ppo_n_minibatches = wanted
    gradient, _ = update_gradient(actor, mine)
    actor.config.ppo_n_minibatches = 1
    return gradient.view(len(dealt), -1), actor._ranks.sum(torch.tensor(tokens))


def main(model: str, out: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    actor = make_actor(actor_config(Path(model), world))
    whole = {
        name: actor._get_full_tensor(parameter)
        for name, parameter in actor.model.named_parameters()
    }
    results = {name: run(actor, case, rank, world) for name, case in CASES.items()}
    results |= {"weights": whole, "signals": signals(actor, rank, world)}
    results["divided"] = [divided(actor, wanted, rank, world) for wanted in (1, 3)]
    if rank == 0:
        torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
