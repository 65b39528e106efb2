"""Rates in which every number is round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from areal_cppo.plan.rates import Rates, parse_rates

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "server": {
        "gpus": 1,
        "slots": 4,
        "decode": [[1, 10], [4, 20]],
        "prefill_tokens_per_second": 100,
        "request_seconds": 0.5,
    },
    "trainer": {
        "gpus": 1,
        "step_seconds": 1.0,
        "token_seconds": 0.01,
        "sync_seconds": 0.25,
    },
    "weights": {"update_seconds": 2.0},
    "reward_seconds": 0.125,
    "prompt_tokens": {"kind": "fixed", "value": 50},
    "response_tokens": {"kind": "fixed", "value": 40},
    "measured": {},
}


def change(document: Any, path: str, value: Any) -> Any:
    """A copy with the field at `path`, as `server.slots`, set."""
    key, _, rest = path.partition(".")
    inner = change(document.get(key, {}), rest, value) if rest else value
    return {**document, key: inner}


@pytest.fixture(scope="session")
def document() -> Callable[..., dict[str, Any]]:
    """A rates file's object, changed: `document(("server.slots", 1))`."""

    def make(*changes: tuple[str, Any]) -> dict[str, Any]:
        made = DOCUMENT
        for path, value in changes:
            made = change(made, path, value)
        return made

    return make


@pytest.fixture(scope="session")
def rates(document) -> Callable[..., Rates]:
    """The same, checked."""
    return lambda *changes: parse_rates(document(*changes))
