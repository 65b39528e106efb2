"""A process that computes rewards: `python -m areal_cppo.rewards.worker NAME SECONDS`.

On its standard input it gets a JSON object a line: the `arguments` of a call, and the
`weights` of what it returns (`parts.py`); for each it answers with a line, `{"value":
0.9, "parts": {"answer": 1.0}}` or `{"error": "ZeroDivisionError in f, line 3"}`.
Before the first it says that it is ready. It ends with its input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

from areal_cppo.rewards.parts import Reward


def load(function: str) -> Callable[..., Any]:
    """The function that `package.module.name` names."""
    module, _, name = function.rpartition(".")
    return getattr(import_module(module), name)


def call(
    function: Callable[..., Any], arguments: dict[str, Any], weights: dict[str, float]
) -> dict[str, Any]:
    """The answer to one call. Of an error: its type and place, none of the payload."""
    try:
        result = function(**arguments)
    except Exception as error:  # whatever a user's function raises is reported
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {last.name}, line {last.lineno}"
        return {"error": f"{place} of {os.path.basename(last.filename)}"}
    try:
        return asdict(Reward.of(result, weights))
    except ValueError as error:
        return {"error": str(error)}


def main(function: str, last_resort_seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    # What the function prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    loaded = load(function)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        # The parent kills what takes too long; if it can't any more, SIGALRM does.
        signal.setitimer(signal.ITIMER_REAL, last_resort_seconds)
        reply = call(loaded, **json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
