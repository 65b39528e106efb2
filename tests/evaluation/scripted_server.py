"""A generation server that says what a test says. Not a test itself.

Which problem a request is of is told by its image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from areal_cppo.tasks.tokenizer import build_tokenizer
from tests.scripted_server import Answer, Request, ScriptedServer
from tests.scripted_server import answer as answer_with

TOKENIZER = build_tokenizer()


def in_sglangs_format(text: str, reason: str = "stop") -> dict[str, Any]:
    return answer_with(TOKENIZER(text)["input_ids"], reason)


class FakeServer(ScriptedServer):
    """Use it as a context manager; `address` begins with `http://`.

    Parameters
    ----------
    answer
        From a request to a response's text, or to an `Answer`.
    seconds
        That each request takes.
    """

    def __init__(self, answer: Callable[[Request], str | Answer], seconds: float = 0.0):
        def generate(request: Request) -> Answer:
            said = answer(request)
            return (200, in_sglangs_format(said)) if isinstance(said, str) else said

        super().__init__(generate, seconds=seconds)
        self.address = self.url
