"""A generation server that answers what a test says, in SGLang's format.

`ScriptedServer` is a server in a thread, whose answers are a function's. `python -m
tests.scripted_server PORT FOLDER` is one in a process of its own (`launch`) that does
what CPPO asks of SGLang, and fails as it is told (`FailingServer`).
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
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOGPROB = "output_token_logprobs"
TOKEN = "secret of the test"  # that a `FailingServer` asks for
FOREVER = 1000.0  # seconds


class Request(dict):
    """What was sent: its JSON, with method, path and headers."""

    def __init__(self, content: bytes, sent: BaseHTTPRequestHandler):
        super().__init__(json.loads(content or b"{}"))
        self.method, self.path = sent.command, sent.path
        self.headers = dict(sent.headers)


# Status and body (text goes as it is, all else as JSON); None: the connection breaks.
Answer = tuple[int, Any] | None


def answer(tokens: list[int], reason: str = "stop", **meta: Any) -> dict[str, Any]:
    """A response in SGLang's format; the log-prob of token 7 is -0.7."""
    return {
        "output_ids": tokens,
        "meta_info": {
            "finish_reason": {"type": reason},
            LOGPROB: [[-0.1 * token, token, None] for token in tokens],
            **meta,
        },
    }


class ScriptedServer:
    """Use it as a context manager.

    Parameters
    ----------
    generate
        From a request for tokens to its answer.
    control
        The same of all other requests.
    seconds
        That each request for tokens takes.
    port
        0: a free one.

    Attributes
    ----------
    address, url : str
        `host:port`, and with `http://` before it.
    requests : list of Request
        Those for tokens so far.
    calls : list of Request
        All others.
    most_at_once : int
        Requests for tokens that were under way at the same time.
    """

    def __init__(
        self,
        generate: Callable[[Request], Answer],
        control: Callable[[Request], Answer] = lambda request: (200, {}),
        seconds: float = 0.0,
        port: int = 0,
    ):
        self.requests: list[Request] = []
        self.calls: list[Request] = []
        self.most_at_once = self._now = 0
        self._generate, self._control, self._seconds = generate, control, seconds
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answered = outer._answer(Request(content, self))
                if answered is None:
                    self.close_connection = True
                    return
                status, body = answered
                text = body if isinstance(body, str) else json.dumps(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"

    def _answer(self, request: Request) -> Answer:
        if request.path != "/generate":
            self.calls.append(request)
            return self._control(request)
        with self._counted(request):
            time.sleep(self._seconds)
            return self._generate(request)

    @contextmanager
    def _counted(self, request: Request):
        with self._lock:
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def __enter__(self) -> ScriptedServer:
        serve = {"poll_interval": 0.01}  # until it looks whether it is to end
        threading.Thread(
            target=self._server.serve_forever, kwargs=serve, daemon=True
        ).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class FailingServer:
    """What a server of CPPO knows, and how it behaves.

    Its weights are the number in FOLDER/weights; a response's only token is 10 plus
    that number, so that a test sees of which weights it is. As in
    `areal_cppo.serving.guard` it is born closed. Weights over the wire come in parts
    `{"names": ["weights", 101]}`, of which two make a version.

    `POST /script {"mode": ...}` sets how it behaves; a mode lasts until the next, and
    is gone after a restart:

    | mode | |
    | --- | --- |
    | `silent` | no answer to anything but `/script` |
    | `die_on_update` | exits in the middle of a weight update |
    | `refuse_update` | answers 400 to a weight update |
    | `lose_update` | says that it has got a part, but has not |
    | `slow_update` | takes `seconds` to load, to join a group, to receive a part |

    Files beside FOLDER: `slow_start` has the seconds until it listens; `stop_on_start`
    and `stop_on_update` stop it (SIGSTOP) when it starts or loads weights, once.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        slow = folder.parent / "slow_start"
        time.sleep(float(slow.read_text()) if slow.exists() else 0.0)
        self._stop_on("start")
        self.weights = int((folder / "weights").read_text())
        self.open_for: int | None = None
        self.script: dict[str, Any] = {}
        self.paused = False
        self.open_requests = 0  # by its own account
        self.ending = 0  # of them, until the next look
        self.seen: list[str] = []
        self.parts: list[int] = []

    def generate(self, request: Request) -> Answer:
        """A response, if it is open for the version that is asked for."""
        if self.open_for is None:
            return 503, {}
        if int(request.headers["X-Weights-Version"]) > self.open_for:
            return 503, {}
        return 200, answer([10 + self.weights])

    def control(self, request: Request) -> Answer:
        """All else."""
        if request.path == "/script":
            self.script = request
            self.open_requests = request.get("open_requests", 0)
            return 200, {}
        if request.path == "/":
            return 200, {"seen": self.seen, "weights": self.weights}
        if self.script.get("mode") == "silent":
            time.sleep(FOREVER)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {}
        if request.method == "POST":
            self.seen.append(request.path)
        handlers = {
            "/health": self._health,
            "/v1/loads?include=core": self._loads,
            "/abort_request": self._abort,
            "/pause_generation": lambda _: self._pause(True),
            "/continue_generation": lambda _: self._pause(False),
            "/cppo/open": self._open,
            "/cppo/compare_weights": self._received,
        }
        return handlers.get(request.path, self._update)(request)

    def _stop_on(self, what: str) -> None:
        marker = self.folder.parent / f"stop_on_{what}"
        if marker.exists():
            marker.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)

    def _health(self, request: Request) -> Answer:
        if self.paused:
            time.sleep(FOREVER)
        return 200, {}

    def _loads(self, request: Request) -> Answer:
        load = {"num_running_reqs": self.open_requests, "num_waiting_reqs": 0}
        self.open_requests = max(0, self.open_requests - self.ending)
        return 200, {"loads": [load]}

    def _abort(self, request: Request) -> Answer:
        self.ending = self.script.get("ending", 0)
        return 200, {}

    def _pause(self, paused: bool) -> Answer:
        self.paused = paused
        return 200, {}

    def _open(self, request: Request) -> Answer:
        self.open_for = request["version"]
        return 200, {"version": self.open_for}

    def _received(self, request: Request) -> Answer:
        whole = self.parts == [self.weights] * 2
        self.parts = []
        return 200, {"equal": whole, "message": "1 has not come"}

    def _update(self, request: Request) -> Answer:
        mode = self.script.get("mode")
        self._stop_on("update")
        if mode == "slow_update":
            time.sleep(self.script["seconds"])
        if mode == "die_on_update" and request.path != "/init_weights_update_group":
            os._exit(4)
        if mode == "refuse_update":
            wire = request.path == "/update_weights_from_distributed"
            return 200 if wire else 400, {"success": False}
        if request.path == "/update_weights_from_disk":
            path = Path(request["model_path"]) / "weights"
            if not path.exists():
                return 400, {"success": False}
            self.weights = int(path.read_text())
        elif request.path == "/update_weights_from_distributed":
            self.weights = request["names"][1]
            if mode != "lose_update":
                self.parts.append(self.weights)
        return 200, {"success": True}


def launch(port: int, folder: str | Path) -> subprocess.Popen:
    """Start one, with a child of its own that must not outlive it."""
    return subprocess.Popen([sys.executable, __file__, str(port), str(folder)])


def script(address: str, **settings: Any) -> None:
    """Tell a server how to behave."""
    content = json.dumps(settings).encode()
    urllib.request.urlopen(f"http://{address}/script", content, timeout=10).read()


def look(address: str) -> dict[str, Any]:
    """`seen` (the paths that something was posted to) and `weights` of a server."""
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as reply:
        return json.load(reply)


def main(port: str, folder: str) -> None:
    failing = FailingServer(Path(folder))
    subprocess.Popen(["sleep", str(FOREVER)])  # as SGLang's scheduler: to be ended, too
    with ScriptedServer(failing.generate, failing.control, port=int(port)):
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
