"""A user's reward function with bugs: what it does is written in the answer."""

from __future__ import annotations

import os
import signal
import time

from areal_cppo.rewards import reward

# In place of an answer; any other answer is checked as always.
CRASH, HANG, DIE = "crash", "hang", "die"


def reward_fn(prompt, completions, prompt_ids, completion_ids, answer, **kwargs):
    if answer == CRASH:
        raise ZeroDivisionError(f"of {completions}")
    if answer == HANG:
        time.sleep(86400)
    if answer == DIE:
        os.kill(os.getpid(), signal.SIGSEGV)
    return reward.reward_fn(prompt, completions, prompt_ids, completion_ids, answer)
