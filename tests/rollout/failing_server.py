"""A server in a process of its own that fails as it is told to.

`python failing_server.py PORT FOLDER` serves what CPPO asks of SGLang. Its weights are
the number in FOLDER/weights; a response's only token is 10 plus that number, so that a
test sees of which weights it is. As in `areal_cppo.serving.guard` it is born closed.

`POST /script {"mode": ...}` sets how it behaves; a mode lasts until the next, and is
gone after a restart:

| mode | |
| --- | --- |
| `hang` | no answer to `/generate`, but to everything else |
| `silent` | no answer to anything but `/script` |
| `nonsense` | answers `/generate` with `answer` (text) |
| `status` | answers `/generate` with `status` |
| `die_on_update` | exits in the middle of a weight update |
| `die_on_request` | exits when asked for tokens |
| `refuse_update` | answers 400 to a weight update |
| `lose_update` | says it has loaded the weights, but has not |
| `slow_update` | takes `seconds` to load, or to join a group |
| `abort` | answers half of a response, as if paused |

Weights over the wire come in parts `{"names": ["weights", 101]}`, of which two make a
version; a folder of null is compared with them.

A file FOLDER/broken: started again, it holds other weights than it says. A file
FOLDER/stop_on_update: the next weight update stops it (SIGSTOP), once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VOCABULARY = 100
TOKEN = "secret of the test"


class Held:
    """What the server knows."""

    def __init__(self, folder: Path):
        self.weights = int((folder / "weights").read_text())
        if (folder / "broken").exists():
            self.weights = 77
        self.stop_on_update = folder / "stop_on_update"
        self.open_for: int | None = None
        self.script: dict = {"mode": "well"}
        self.paused = False
        self.open_requests = 0  # by its own account
        self.ending = 0  # of them, until the next look
        self.seen: list[str] = []
        self.parts: list[int] = []


def answer(token: int, reason: str = "stop") -> dict:
    return {
        "output_ids": [token],
        "meta_info": {
            "finish_reason": {"type": reason},
            "output_token_logprobs": [[-0.5, token, None]],
        },
    }


class Handler(BaseHTTPRequestHandler):
    held: Held

    def do_GET(self):
        if (
            self.held.script["mode"] == "silent"
            or self.held.paused
            and (self.path == "/health")
        ):
            time.sleep(1000)
        load = {"num_running_reqs": self.held.open_requests, "num_waiting_reqs": 0}
        self.held.open_requests = max(0, self.held.open_requests - self.held.ending)
        known = {"seen": self.held.seen, "weights": self.held.weights}
        self.reply(200, known | {"loads": [load]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        held, mode = self.held, self.held.script["mode"]
        if self.path == "/script":
            held.script = body
            held.open_requests = body.get("open_requests", 0)
            return self.reply(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {})
        held.seen.append(self.path)
        if mode == "silent":
            time.sleep(1000)
        if self.path == "/generate":
            return self.generate(body, mode)
        if self.path == "/update_weights_from_disk":
            return self.update(Path(body["model_path"]), mode)
        if self.path == "/cppo/open":
            held.open_for = body["version"]
        elif self.path == "/init_weights_update_group":
            return self.join(mode)
        elif self.path == "/update_weights_from_distributed":
            return self.receive(body["names"][1], mode)
        elif self.path == "/cppo/compare_weights" and body["path"] is None:
            whole = held.parts == [held.weights] * 2
            held.parts = []
            return self.reply(200, {"equal": whole, "message": "1 has not come"})
        elif self.path == "/cppo/compare_weights":
            wanted = int((Path(body["path"]) / "weights").read_text())
            equal = wanted == held.weights
            return self.reply(200, {"equal": equal, "message": "a parameter differs"})
        elif self.path == "/abort_request":
            held.ending = held.script.get("ending", 0)
        elif self.path == "/pause_generation":
            held.paused = True
        elif self.path == "/continue_generation":
            held.paused = False
        return self.reply(200, {})

    def generate(self, body, mode):
        held = self.held
        asked = int(self.headers["X-Weights-Version"])
        if held.open_for is None or asked > held.open_for:
            return self.reply(503, {})
        if mode == "hang":
            time.sleep(1000)
        if mode == "die_on_request":
            os._exit(3)
        if mode == "status":
            return self.reply(held.script["status"], {})
        if mode == "nonsense":
            return self.reply(200, held.script["answer"])
        if mode == "abort":
            held.script = {"mode": "well"}
            return self.reply(200, answer(10 + held.weights, "abort"))
        return self.reply(200, answer(10 + held.weights))

    def update(self, folder, mode):
        if self.held.stop_on_update.exists():
            self.held.stop_on_update.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        if mode == "die_on_update":
            self.held.weights = -1
            os._exit(4)
        if mode == "refuse_update":
            return self.reply(400, {"success": False})
        if mode == "slow_update":
            time.sleep(self.held.script["seconds"])
        try:
            new = int((folder / "weights").read_text())
        except OSError:
            return self.reply(400, {"success": False})
        if mode != "lose_update":
            self.held.weights = new
        return self.reply(200, {"success": True})

    def join(self, mode):
        if mode == "slow_update":
            time.sleep(self.held.script["seconds"])
        success = mode != "refuse_update"
        self.reply(200 if success else 400, {"success": success})

    def receive(self, weights, mode):
        if mode == "die_on_update":
            os._exit(4)
        if mode == "slow_update":
            time.sleep(self.held.script["seconds"])
        if mode == "refuse_update":
            return self.reply(200, {"success": False})
        self.held.weights = weights
        if mode != "lose_update":
            self.held.parts.append(weights)
        return self.reply(200, {"success": True})

    def reply(self, status, content):
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


def launch(port: int, folder: Path) -> subprocess.Popen:
    """Start it, with a child of its own that must not outlive it."""
    return subprocess.Popen([sys.executable, __file__, str(port), str(folder)])


def script(address: str, **settings) -> None:
    """Tell a server how to behave."""
    request = urllib.request.Request(
        f"http://{address}/script", json.dumps(settings).encode()
    )
    urllib.request.urlopen(request, timeout=10).read()


def look(address: str) -> dict:
    """`seen` (the paths of requests) and `weights` of a server."""
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as reply:
        return json.load(reply)


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    (folder / "starts").open("a").write("started\n")
    Handler.held = Held(folder)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    subprocess.Popen(["sleep", "1000"])  # as SGLang's scheduler: a process to end, too
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
