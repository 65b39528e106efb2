"""A generation server for `bench rollout`: SGLang's format, and its way to be paused.

Not a test itself. Each request takes `seconds`; a pause aborts those under way, which
then hold the half of their tokens.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = 30  # an ordinary one of the triangle task's vocabulary


class PausableServer:
    """Use it as a context manager.

    Parameters
    ----------
    seconds
        That each request takes.
    model
        Folder that it says it serves.
    metrics
        Whether it tells when a prompt's pass had ended, a tenth into the request.
    loads
        Whether it takes new weights.
    status
        Of its answers to `/generate`.

    Attributes
    ----------
    requests : list[dict]
        Payloads of `/generate`.
    calls : list[str]
        Paths of the others, in order.
    tokens : set[str]
        What requests had as authorization.
    """

    def __init__(
        self,
        seconds: float = 0.05,
        model: str = "",
        metrics: bool = True,
        loads: bool = True,
        status: int = 200,
    ):
        self.requests: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.tokens: set[str] = set()
        self.aborted = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path != "/health":
                    fake.tokens.add(self.headers.get("Authorization", ""))
                self.reply(200, {"model_path": model})

            def do_POST(self):
                fake.tokens.add(self.headers.get("Authorization", ""))
                payload = json.loads(
                    self.rfile.read(int(self.headers["Content-Length"]))
                )
                if self.path == "/generate":
                    fake.requests.append(payload)
                    self.reply(status, generate(payload))
                    return
                fake.calls.append(self.path)
                if self.path == "/pause_generation":
                    fake.aborted.set()
                elif self.path == "/continue_generation":
                    fake.aborted.clear()
                success = loads or self.path != "/update_weights_from_disk"
                self.reply(200, {"success": success, "message": "no such weights"})

            def reply(self, code: int, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        def generate(payload: dict[str, Any]) -> dict[str, Any]:
            received = time.time()
            cut = fake.aborted.wait(seconds)
            wanted = payload["sampling_params"]["max_new_tokens"]
            ids = [TOKEN] * (wanted // 2 if cut else wanted)
            meta: dict[str, Any] = {
                "finish_reason": {"type": "abort" if cut else "length"},
                "output_token_logprobs": [[-0.5, token, None] for token in ids],
            }
            if metrics:
                meta["request_received_ts"] = received
                meta["prefill_finished_time"] = received + seconds / 10
            return {"output_ids": ids, "meta_info": meta}

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> PausableServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
