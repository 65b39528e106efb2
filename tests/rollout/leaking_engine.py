"""An engine whose request fails, for test_redaction.py: imported by an RPC worker."""

from __future__ import annotations

import asyncio

from areal.api.cli_args import InferenceEngineConfig
from areal.infra.utils.http import arequest_with_retry

from areal_cppo.rollout.controller import CPPORolloutEngine


class LeakingEngine(CPPORolloutEngine):
    def __init__(self):
        super().__init__(InferenceEngineConfig(backend="sglang:d1"))

    def ask(self, address: str, payload: dict):
        """Ask a server that fails; AReaL's error has all of the payload in it."""
        return asyncio.run(
            arequest_with_retry(address, "/generate", payload, max_retries=1)
        )
