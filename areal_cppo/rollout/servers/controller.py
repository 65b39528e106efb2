"""The controller's side: watches the workers' servers, keeps the newest weights.

AReaL deletes the folder of an update as soon as it is loaded. A server that comes back
needs it, so that it stays until the next update is done.

Weights that come over the wire go to all servers or to none. While the trainer sends
them it waits for every server, perhaps for ever if one is gone; so does this process
for the trainer. A server that is lost then ends the run without either.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from areal.api import LocalInfServerInfo, ParamSpec, WeightUpdateMeta
from areal.infra.controller import RolloutController
from areal.utils.network import format_hostport

from areal_cppo.errors import RunError
from areal_cppo.rollout.servers.watch import GONE, FleetWatch, Listener

_NOTICE_SECONDS = 20.0  # in which whoever waits in an update may fail by itself
_WORD_SECONDS = 10.0  # in which the servers say what became of an update


class FleetController(RolloutController):
    """AReaL's rollout controller, for workers whose engine is a `ServersEngine`.

    Subclasses have `end_run(error)`, by which whoever waits for a batch fails.

    Attributes
    ----------
    listeners
        Told what happens to the servers (`areal_cppo.rollout.servers.watch`), in
        another thread.
    failure
        Why the run can't go on; None while it can. It says more than the error that
        somebody else may run into first.
    token
        What the servers ask for; "" if they don't.
    end_now
        Ends the run whatever this process waits for; None: nobody can.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.listeners: list[Listener] = []
        self.failure: RunError | None = None
        self.token = ""
        self.end_now: Callable[[RunError], None] | None = None
        self._on_the_wire = False  # from the first request of an update to its last
        self._ending: threading.Timer | None = None
        self._watch: FleetWatch | None = None
        self._destroyed = False
        self._newest: Path | None = None

    def initialize(
        self,
        role: str,
        server_args: dict[str, Any] | None = None,
        server_infos: list[LocalInfServerInfo] | None = None,
        *args,
        token: str | None = None,
        **kwargs,
    ):
        """AReaL's; `token` is that of `server_infos`, by default a new one."""
        if token is None:
            token = secrets.token_urlsafe(32) if self.config.servers.token else ""
        self.token = token
        model = (server_args or {}).get("model_path")
        if server_infos is not None:  # others watch them
            kwargs["servers"] = list(map(_address, server_infos))
        super().initialize(
            role,
            {**(server_args or {}), "token": token},
            server_infos,
            *args,
            token=token,
            model=model,
            **kwargs,
        )
        if server_infos is None:
            self._start_watch(role)

    def destroy(self):
        """AReaL's; the folder of the newest weights goes, too."""
        self._destroyed = True
        if self._watch is not None:
            self._watch.stop()
        super().destroy()
        if self._newest is not None:
            shutil.rmtree(self._newest, ignore_errors=True)

    async def update_weights_from_disk(self, meta: WeightUpdateMeta):
        """All servers that are up load the weights; those before are deleted then."""
        meta.clear_checkpoint_after_load = False
        await self._collective_rpc_async("update_weights_from_disk", meta=meta)
        self._newest = Path(meta.path)
        for older in self._newest.parent.glob("weight_update_v*"):
            if older != self._newest:
                shutil.rmtree(older, ignore_errors=True)

    async def init_weights_update_group(self, meta: WeightUpdateMeta) -> None:
        """All servers join the group over which weights will come."""
        await self._wire_call(super().init_weights_update_group(meta))
        self._on_the_wire = False

    async def update_weights_from_distributed(
        self, meta: WeightUpdateMeta, param_specs: list[ParamSpec]
    ) -> None:
        """All servers receive a part of the weights; `continue_generation` is last."""
        call = super().update_weights_from_distributed(meta, param_specs)
        await self._wire_call(call)

    async def continue_generation(self) -> None:
        """All servers go on; with the weights that came, of which none is missing."""
        if not self._on_the_wire:
            return await super().continue_generation()
        await self._wire_call(super().continue_generation())
        self._on_the_wire = False
        return None

    async def _wire_call(self, call: Awaitable[None]) -> None:
        self._on_the_wire = True
        self._end_if_stuck()  # a server may have been lost just before
        try:
            await call
        except Exception as error:
            self._fail(RunError(_reason(error)))
            raise

    def cause(self) -> RunError | None:
        """Why the run can't go on, if that is for its servers.

        In an update over the wire the trainer may have failed first, for a connection
        that broke: then the servers' word is waited for.
        """
        deadline = time.monotonic() + _WORD_SECONDS
        while self.failure is None and self._on_the_wire:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return self.failure

    def _start_watch(self, role: str) -> None:
        servers = list(map(_address, self.server_infos))
        folder = getattr(self.scheduler, "log_dir", None)  # of the local scheduler
        log = f"{folder}/{role}.log" if folder else "the log of the rollout workers"
        self._watch = FleetWatch(
            self._ask, servers, self.config.servers, self._fail, log, self.listeners
        )
        self._watch.start()

    async def _ask(self, rank: int, states: dict[str, str]) -> dict[str, Any]:
        return await self.scheduler.async_call_engine(
            self.workers[rank].id,
            "server_status",
            engine_name=self._engine_name(rank),
            states=states,
            http_timeout=30.0,
            max_retries=1,
        )

    def _fail(self, error: RunError) -> None:
        if self.failure is None and not self._destroyed:
            self.failure = error
            self.end_run(error)
            self._end_if_stuck()

    def _end_if_stuck(self) -> None:
        """End the run soon if it failed and an update over the wire is under way."""
        wait = self.failure is None or not self._on_the_wire or self.end_now is None
        if wait or self._ending is not None:
            return
        self._ending = threading.Timer(_NOTICE_SECONDS, self.end_now, [self.failure])
        self._ending.daemon = True
        self._ending.start()

    async def _collective_rpc_async(self, method: str, *args, **kwargs) -> list[Any]:
        try:
            return await super()._collective_rpc_async(method, *args, **kwargs)
        except Exception as error:
            if type(error).__name__ in GONE:
                self._fail(
                    RunError(
                        f"a rollout worker could not be reached for {method} "
                        f"({type(error).__name__}); start the run again to go on from "
                        "its last checkpoint"
                    )
                )
            raise


def _reason(error: Exception) -> str:
    """What the worker said, in a line, without what AReaL puts before it."""
    text = f"{type(error).__name__}: {error}"
    return " ".join((text.partition("' failed: ")[2] or text).split())[:500]


def _address(info: LocalInfServerInfo) -> str:
    return format_hostport(info.host, info.port)
