"""A reward that is a function of the response; little to import in each process."""

import random


def reward_fn(prompt, completions, prompt_ids, completion_ids, answer, **kwargs):
    return random.Random(f"{completion_ids}").random()
