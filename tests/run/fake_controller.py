"""Stands in for the controller in test_supervisor.py: `fake_controller PIPE SCENARIO
FOLDER`.

Starts a child that outlives it, as a run does, then does what the scenario says. Each
life of a run adds a line to the file `lives` of the folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CHILD = ("sleep", "86399")
FAILS = {"status": 1, "text": "the worker actor/0 died"}


def main(descriptor: str, scenario: str, folder: str) -> None:
    pipe = os.fdopen(int(descriptor), "w", buffering=1)

    def say(kind: str, **fields) -> None:
        pipe.write(json.dumps({"kind": kind, **fields}) + "\n")

    def beat() -> None:
        while True:
            say("alive")
            time.sleep(0.1)

    def fail(**fields) -> None:
        say("error", **FAILS, **fields)
        os._exit(1)

    lives = Path(folder, "lives")
    with lives.open("a") as file:
        file.write("x\n")
    life = len(lives.read_text().split())
    print("hello from the log", flush=True)
    subprocess.Popen(CHILD, start_new_session=True)
    if scenario == "no folder yet":
        time.sleep(600)
    limits = {"start": 60.0, "step": 60.0, "end": 60.0, "silent": 60.0}
    if scenario in ("silence", "is stopped once"):
        limits |= {"silent": 0.5}
    if scenario == "stands still":
        limits |= {"step": 0.5}
    grace = 60.0 if scenario == "obeys" else 1.0 if scenario == "deaf" else 0.0
    retries = 0 if scenario in ("crash", "fails, no recovery") else 2
    say("run", folder=folder, limits=limits, retries=retries, grace=grace)
    if scenario == "success":
        os._exit(0)
    if scenario == "user error":
        say("error", text="expected a, found b; do c", status=2, restart=False)
        os._exit(2)
    if scenario == "crash":
        print("the last line of the log", flush=True)
        os._exit(7)
    if scenario == "fails at the start":
        fail()
    say("training", servers=[], start=time.time())
    if scenario == "fails, no recovery":
        fail()
    if scenario == "gives up":
        fail(restart=False)
    if scenario == "fails once":
        say("step", record={"step": life})
        if life == 1:
            fail()
        os._exit(0)
    if scenario == "is killed once":
        if life == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    if scenario == "fails again and again":
        fail()
    if scenario == "gets on":  # a step further each time
        say("step", record={"step": life})
        if life < 6:
            fail()
        os._exit(0)
    if scenario == "is stopped once":
        threading.Thread(target=beat, daemon=True).start()
        if life == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    if scenario == "stands still":
        beat()
    if scenario == "obeys":
        while not Path(folder, "STOP").exists():
            time.sleep(0.05)
        say("error", text="stopped after step 3, as asked", status=75, restart=False)
        os._exit(75)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
