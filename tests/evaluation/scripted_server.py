"""A generation server that answers what a test says, in SGLang's format.

Not a test itself. Which problem a request is of is told by its image.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from areal_cppo.tasks.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
Answer = Callable[[dict[str, Any]], "tuple[int, Any] | str"]


def in_sglangs_format(text: str, reason: str = "stop") -> dict[str, Any]:
    ids = TOKENIZER(text)["input_ids"]
    return {
        "output_ids": ids,
        "meta_info": {
            "finish_reason": {"type": reason},
            "output_token_logprobs": [[-0.5, token, None] for token in ids],
        },
    }


class FakeServer:
    """Use it as a context manager.

    Parameters
    ----------
    answer
        From a request's payload to a response's text, or to a status and what comes
        with it. Status 0 closes the connection without an answer.
    seconds
        That each request takes.

    Attributes
    ----------
    address : str
    requests : list[dict]
        Payloads so far.
    most_at_once : int
        Requests that were under way at the same time.
    """

    def __init__(self, answer: Answer, seconds: float = 0.0):
        self.requests: list[dict[str, Any]] = []
        self.most_at_once = self._now = 0
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, {})

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                payload = json.loads(self.rfile.read(size))
                with lock:
                    fake.requests.append(payload)
                    fake._now += 1
                    fake.most_at_once = max(fake.most_at_once, fake._now)
                time.sleep(seconds)
                answered = answer(payload)
                with lock:
                    fake._now -= 1
                if isinstance(answered, str):
                    answered = 200, in_sglangs_format(answered)
                if answered[0]:
                    self.reply(*answered)
                else:
                    self.close_connection = True

            def reply(self, status: int, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
