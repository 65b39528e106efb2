"""AReaL's rollout as a run has it: the engine that workers import, and its controller.

The controller watches the workers' servers and keeps the newest weights: AReaL deletes
the folder of an update as soon as it is loaded, but a server that comes back is started
from it. So it stays until the next update is done, and longer where a server that
starts meanwhile still reads it.

Weights that come over the wire go to all servers or to none. While the trainer sends
them it waits for every server, perhaps for ever if one is gone; so does this process
for the trainer. A server that is lost then ends the run without either.

The stock controller averages its workers' statistics and drops the counts; this one
keeps the totals of the counters.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from areal.api import LocalInfServerInfo, ParamSpec, WeightUpdateMeta
from areal.api.cli_args import InferenceEngineConfig
from areal.engine.sglang_remote import RemoteSGLangEngine
from areal.utils.network import format_hostport
from typing_extensions import override

from areal_cppo.errors import RunError
from areal_cppo.rollout.engine import CPPOInfEngine
from areal_cppo.rollout.ledger_controller import LedgerRolloutController
from areal_cppo.rollout.refusals import REFUSED
from areal_cppo.rollout.requests import RESENT, CPPOBackend
from areal_cppo.rollout.servers.fleet import GONE, FleetWatch, Listener

_NOTICE_SECONDS = 20.0  # in which whoever waits in an update may fail by itself
_WORD_SECONDS = 10.0  # in which the servers say what became of an update


class CPPORolloutController(LedgerRolloutController):
    """AReaL's, with a ledger and a watch on servers; `export_stats` also has totals.

    Attributes
    ----------
    listeners
        Told what happens to the servers (`areal_cppo.rollout.servers.state`), in
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
        self._weights_root: Path | None = None  # of the updates' folders

    @override
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

    @override
    def destroy(self):
        """AReaL's; the folders of weights go, too."""
        self._destroyed = True
        if self._watch is not None:
            self._watch.stop()
        super().destroy()
        self._delete_weights(keep=set())

    @override
    async def update_weights_from_disk(self, meta: WeightUpdateMeta):
        """All servers that are up load the weights; those before are deleted then."""
        meta.clear_checkpoint_after_load = False
        still_read = await self._collective_rpc_async(
            "update_weights_from_disk", meta=meta
        )
        self._weights_root = Path(meta.path).parent
        self._delete_weights({Path(meta.path), *map(Path, filter(None, still_read))})

    def _delete_weights(self, keep: set[Path]) -> None:
        if self._weights_root is not None:
            for folder in self._weights_root.glob("weight_update_v*"):
                if folder not in keep:
                    shutil.rmtree(folder, ignore_errors=True)

    @override
    async def init_weights_update_group(self, meta: WeightUpdateMeta) -> None:
        """All servers join the group over which weights will come."""
        await self._wire_call(super().init_weights_update_group(meta))
        self._on_the_wire = False

    @override
    async def update_weights_from_distributed(
        self, meta: WeightUpdateMeta, param_specs: list[ParamSpec]
    ) -> None:
        """All servers receive a part of the weights; `continue_generation` is last."""
        call = super().update_weights_from_distributed(meta, param_specs)
        await self._wire_call(call)

    @override
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

    @override
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

    @override
    def _collective_rpc(self, method, *args, **kwargs):
        replies = super()._collective_rpc(method, *args, **kwargs)
        if method == "export_stats":
            self._worker_stats = replies
        return replies

    @override
    def export_stats(self) -> dict[str, float]:
        """Statistics since the last call, averaged over workers by AReaL.

        For each counter `.../refused/<reason>` there is `.../refused/<reason>/total`,
        the number of responses refused for it (of groups: `group_...`), and
        likewise for `servers/resent`, the number of requests sent again.
        """
        stats = super().export_stats()
        totals: dict[str, float] = defaultdict(float)
        for reply in self._worker_stats:
            for key, mean in reply.items():
                counts = REFUSED in key or RESENT in key
                if counts and not key.endswith("__count"):
                    totals[f"{key}/total"] += mean * reply[f"{key}__count"]
        stats.update({key: float(round(total)) for key, total in totals.items()})
        return stats


class CPPORolloutEngine(RemoteSGLangEngine):
    """AReaL's SGLang engine, controlled by `CPPORolloutController`.

    Workers import it by name: it has to live at module level.
    """

    def __init__(self, config: InferenceEngineConfig):
        self.config = config
        self._engine = CPPOInfEngine(config, CPPOBackend())

    @override
    def initialize(
        self,
        engine_id: str | None = None,
        addr: str | list[str] | None = None,
        train_data_parallel_size: int | None = None,
        **servers,
    ):
        """AReaL's; `servers` goes to `CPPOInfEngine.initialize`.

        AReaL lets each worker bound staleness for its share of the batch, rounded down,
        so that a run whose servers don't divide the batch waits for ever one day. Here
        the controller alone bounds it: a worker's share is all.
        """
        share = 1 if train_data_parallel_size is None else train_data_parallel_size
        self._engine.initialize(engine_id, addr, share, **servers)

    def server_status(self, states: dict[str, str]) -> dict[str, Any]:
        """How the worker's server is; `states` are those of all servers."""
        return self._engine.server_status(states)

    @classmethod
    @override
    def as_controller(cls, config: InferenceEngineConfig, scheduler):
        return CPPORolloutController(cls, config=config, scheduler=scheduler)


def _reason(error: Exception) -> str:
    """What the worker said, in a line, without what AReaL puts before it."""
    text = f"{type(error).__name__}: {error}"
    return " ".join((text.partition("' failed: ")[2] or text).split())[:500]


def _address(info: LocalInfServerInfo) -> str:
    return format_hostport(info.host, info.port)
