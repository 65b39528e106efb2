"""Reward functions that do what a response says; run in processes of their own."""

import time

HANG, RAISE = 26, 27  # tokens


def by_token(completion_ids: list[int], **kwargs) -> float:
    if HANG in completion_ids:
        time.sleep(600)
    if RAISE in completion_ids:
        raise ZeroDivisionError("a payload")
    return float(len(completion_ids))


def in_parts(**told):
    return {"right": 1.0, "short": 0}
