"""Stands in for the controller in test_supervisor.py: `fake_controller SCENARIO`.

Starts a child that outlives it, as a run does, then does what the scenario says.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

from areal_cppo.runs.supervisor import PIPE

CHILD = ("sleep", "86399")


def main(scenario: str, folder: str) -> None:
    pipe = os.fdopen(int(os.environ.pop(PIPE)), "w", buffering=1)

    def say(kind: str, **fields) -> None:
        pipe.write(json.dumps({"kind": kind, **fields}) + "\n")

    print("hello from the log", flush=True)
    subprocess.Popen(CHILD, start_new_session=True)
    say("run", folder=folder)
    if scenario == "success":
        os._exit(0)
    if scenario == "user error":
        say("error", text="expected a, found b; do c", status=2)
        os._exit(2)
    if scenario == "crash":
        print("the last line of the log", flush=True)
        os._exit(7)
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    say("training", servers=[f"{host}:{port}"], start=time.time())
    if scenario.startswith("server dies"):
        listener.close()
    if scenario == "server dies, controller fails":
        say("error", text="500 Server Error", status=1)
        os._exit(1)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
