"""A generation server that speaks SGLang's protocol and says what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer:
    """Use it as a context manager.

    Parameters
    ----------
    reply
        From a request's payload to (response ids, finish reason); None: status 500.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], tuple[list[int], str] | None]):
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_json(200, {})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                payload = json.loads(body)
                outer.requests.append(payload)
                answer = reply(payload)
                if answer is None:
                    return self.send_json(500, {"error": "out of memory"})
                ids, reason = answer
                meta = {
                    "finish_reason": {"type": reason},
                    "output_token_logprobs": [[-0.5, token, None] for token in ids],
                }
                self.send_json(200, {"meta_info": meta})

            def send_json(self, status: int, content: dict[str, Any]):
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
