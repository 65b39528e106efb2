"""Reward functions for the tests, imported by name in processes of their own."""

import os
import sys
import time


def loads_torch(**kwargs) -> float:
    return float("torch" in sys.modules)


def process_id(**kwargs) -> float:
    return float(os.getpid())


def behave(completions, **kwargs):
    """Does what the response says."""
    if completions == "sleep":
        time.sleep(600)
    if completions == "hold the interpreter":
        return float(sum(range(10**13)))
    if completions == "raise":
        raise KeyError("payload")
    if completions == "nan":
        return float("nan")
    if completions == "none":
        return None
    if completions == "words":
        return {"a": 1, "b": "much"}
    if completions == "parts":
        return {"a": True, "b": 0.25}
    if completions == "die":
        os._exit(3)
    if completions == "print":
        print('{"reward": 17.0}', flush=True)
    return 1.0
