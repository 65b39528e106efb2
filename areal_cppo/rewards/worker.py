"""A process that computes rewards: `python -m areal_cppo.rewards.worker NAME SECONDS`.

On its standard input it gets a JSON object a line: the `arguments` of a call, and the
`weights` of what it returns (`parts.py`); for each it answers with a line, `{"value":
0.9, "parts": {"answer": 1.0}}` or `{"error": "ZeroDivisionError in f, line 3"}`,
with the error's `text`.
Without `weights` it only looks whether the function takes such arguments: `{}`. Before
the first it says that it is ready, `{}`, or why it isn't. It ends with its input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from areal_cppo.rewards.loading import CannotLoad, load, misfit
from areal_cppo.rewards.parts import Reward


def call(
    function: Callable[..., Any],
    arguments: dict[str, Any],
    weights: dict[str, float] | None,
) -> dict[str, Any]:
    """The answer to one call. Of an error: its type and place, none of the payload;
    its text apart, for who calls with a payload of his own (`areal-cppo reward`)."""
    wrong = misfit(function, arguments)
    if wrong or weights is None:
        return {"error": wrong} if wrong else {}
    try:
        result = function(**arguments)
    except Exception as error:  # whatever a user's function raises is reported
        frames = traceback.extract_tb(error.__traceback__)[1:] or [None]
        # The last place in the function's own file: a library's says less.
        last = [f for f in frames if f and f.filename == frames[0].filename][-1:]
        places = [
            f" in {f.name}, line {f.lineno} of {os.path.basename(f.filename)}"
            for f in last
        ]
        text = " ".join(str(error).split())
        return {"error": type(error).__name__ + "".join(places), "text": text}
    try:
        return asdict(Reward.of(result, weights))
    except ValueError as error:
        return {"error": str(error)}


def main(function: str, last_resort_seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    # What the function prints must not get between the answers, and what it reads,
    # `input()`, must not be a call.
    calls = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        loaded = load(function)
    except CannotLoad as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        sys.exit(1)
    print("{}", file=answers, flush=True)
    for line in calls:
        # The parent kills what takes too long; if it can't any more, SIGALRM does.
        signal.setitimer(signal.ITIMER_REAL, last_resort_seconds)
        reply = call(loaded, **json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
