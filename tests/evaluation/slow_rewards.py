"""Reward functions of other kinds, some of which fail; not a test itself."""

import time


def hangs(answer, **kwargs) -> float:
    if answer == "hang":
        time.sleep(60)
    return {"answer": 1, "format": 1}


def raises(answer, **kwargs) -> float:
    raise ValueError("of the response nothing may be told")


def number(completions, answer, unit, **kwargs) -> float:
    return 0.6 if completions == f"{answer} {unit}" else 0.0


def parts(completions, **kwargs) -> dict[str, float]:
    return {"length": len(completions)}


def graded(**kwargs) -> dict[str, float]:
    return {"answer": 0.5, "format": 0.0}
