"""Reward functions that don't do what they should; not a test itself."""

import time


def hangs(answer, **kwargs) -> float:
    if answer == "hang":
        time.sleep(60)
    return {"answer": 1, "format": 1}


def raises(answer, **kwargs) -> float:
    raise ValueError("of the response nothing may be told")
