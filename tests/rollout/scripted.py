"""Scripted generation servers in threads, and a client of them. Not a test itself."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
from areal.api import ModelRequest
from areal.api.cli_args import GenerationHyperparameters
from areal.engine.sglang_remote import SGLangBackend

from areal_cppo.config.servers import ServersConfig
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.generation import Generator

VOCABULARY = 50
LOGPROB = "output_token_logprobs"
PROMPT = [1, 2, 3]
IMAGE = "an image that must not be logged"


def answer(tokens: list[int], reason: str = "stop", **meta) -> dict:
    return {
        "meta_info": {
            "finish_reason": {"type": reason},
            LOGPROB: [[-0.1 * t, t, None] for t in tokens],
            **meta,
        },
    }


class Scripted:
    """A server; `reply(payload)` gives (status, body), or None: the connection breaks.

    Attributes
    ----------
    requests : list of (payload, headers)
    """

    def __init__(self, reply):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((json.loads(body), dict(self.headers)))
                got = reply(outer.requests[-1][0])
                if got is None:
                    self.close_connection = True
                    return
                status, content = got
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()


def request(most: int = 8) -> ModelRequest:
    return ModelRequest(
        input_ids=list(PROMPT),
        image_data=[IMAGE],
        gconfig=GenerationHyperparameters(max_new_tokens=most),
    )


class Client:
    """A `Generator` and what it reported."""

    def __init__(self, servers: list[Scripted], own: int | None = None, **how):
        self.answers, self.resent, self.version = [], [], 0
        addresses = [server.address for server in servers]
        self.fleet = Fleet(addresses, None if own is None else addresses[own])
        seconds = how.pop("seconds", 30.0)
        self.generator = Generator(
            self.fleet,
            SGLangBackend(),
            ServersConfig(**how),
            seconds,
            "the token",
            VOCABULARY,
            lambda address, wrong: self.answers.append((address, wrong)),
            lambda address, reason: self.resent.append((address, reason)),
        )

    async def run(self, req: ModelRequest):
        async with aiohttp.ClientSession() as session:
            return await self.generator.generate(
                session, req, False, lambda: self.version, lambda: False
            )

    def ask(self, most: int = 8):
        return asyncio.run(self.run(request(most)))


def good(payload):
    return 200, answer([7, 8])


def broken(payload):
    return None
