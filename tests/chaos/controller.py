"""The controller with a user's reward function instead of the package's.

`python -m tests.chaos.train ...` is `areal-cppo train ...` with this controller: the
configuration has no place for a reward function, users who need one do the same.
"""

from __future__ import annotations

import sys

from areal_cppo.serving.cpu import enable_in_this_process

REWARD = "tests.chaos.broken_rewards.reward_fn"


def main() -> None:
    enable_in_this_process()  # as the controller does, before it imports areal
    from areal_cppo.run import controller
    from areal_cppo.run import experiment as run

    load_task = run.load_task

    def with_reward(*args, **kwargs):
        task = load_task(*args, **kwargs)
        task.workflow_kwargs = {**task.workflow_kwargs, "reward_fn": REWARD}
        return task

    run.load_task = with_reward
    controller.main(sys.argv[1:])


if __name__ == "__main__":
    main()
