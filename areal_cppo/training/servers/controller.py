"""The controller's side: watches the workers' servers, keeps the newest weights.

AReaL deletes the folder of an update as soon as it is loaded. A server that comes back
needs it, so that it stays until the next update is done.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from areal.api import LocalInfServerInfo, WeightUpdateMeta
from areal.infra.controller import RolloutController
from areal.utils.network import format_hostport

from areal_cppo.errors import RunError
from areal_cppo.training.servers.watch import GONE, FleetWatch, Listener


class FleetController(RolloutController):
    """AReaL's rollout controller, for workers whose engine is a `ServersEngine`.

    Subclasses have `end_run(error)`, by which whoever waits for a batch fails.

    Attributes
    ----------
    listeners
        Told what happens to the servers (`areal_cppo.training.servers.watch`), in
        another thread.
    failure
        Why the run can't go on; None while it can. It says more than the error that
        somebody else may run into first.
    token
        What the servers ask for; "" if they don't.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.listeners: list[Listener] = []
        self.failure: RunError | None = None
        self.token = ""
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


def _address(info: LocalInfServerInfo) -> str:
    return format_hostport(info.host, info.port)
