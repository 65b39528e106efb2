"""Another program on a dead server's port: it answers everything, all of it wrong."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BIND_SECONDS = 10.0


def _reply(tokens: list, reason: str = "stop") -> bytes:
    meta = {"finish_reason": {"type": reason}, "output_token_logprobs": tokens}
    return json.dumps({"meta_info": meta}).encode()


# Each a status and a body; of status 0 the connection is closed instead.
NONSENSE = (
    (200, b"<html>It works!</html>"),
    (200, b"{}"),
    (200, b'{"meta_info": {"finish_reason"'),
    (200, _reply([[float("nan"), 30, None]])),
    (200, _reply([[-0.5, 10**6, None]])),
    (200, _reply([], "length")),
    (200, _reply([[-0.5, 30, None]] * 1000)),
    (418, b"a teapot"),
    (500, b"{}"),
    (0, b""),
)


class Impostor:
    """Listens on `127.0.0.1:port` for a while, from when it is made.

    Attributes
    ----------
    answered
        Requests so far.
    """

    def __init__(self, port: int, rng: random.Random):
        replies = list(NONSENSE)
        rng.shuffle(replies)
        replies = itertools.cycle(replies)
        self.answered = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                outer.answered += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = next(replies)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *arguments):
                pass

        self._server = self._bind(port, Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def _bind(port: int, handler) -> ThreadingHTTPServer:
        """The dead server's socket may take a moment to go."""
        deadline = time.monotonic() + _BIND_SECONDS
        while True:
            try:
                return ThreadingHTTPServer(("127.0.0.1", port), handler)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def leave_after(self, seconds: float) -> None:
        """Free the port later, in another thread."""
        threading.Timer(seconds, self.leave).start()

    def leave(self) -> None:
        self._server.shutdown()
        self._server.server_close()
