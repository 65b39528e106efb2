"""A rollout worker's client of the servers: AReaL's, with a server that it watches.

The worker starts one server (`launch_server`) and answers for it. An engine that is
given addresses instead (`initialize(addr=...)`, as for evaluation) uses servers that
others watch.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from areal.api import (
    LocalInfServerInfo,
    ModelRequest,
    ModelResponse,
    ParamSpec,
    WeightUpdateMeta,
)
from areal.api.cli_args import InferenceEngineConfig
from areal.api.io_struct import HttpRequest
from areal.infra import RemoteInfEngine, workflow_context
from areal.utils import logging, stats_tracker
from areal.utils.network import find_free_ports, format_hostport

from areal_cppo.config.experiment import CPPORolloutConfig
from areal_cppo.config.servers import ServersConfig
from areal_cppo.errors import RunError
from areal_cppo.rollout.servers.answers import vocabulary_of
from areal_cppo.rollout.servers.fleet import UP, Fleet
from areal_cppo.rollout.servers.generation import Generator
from areal_cppo.rollout.servers.http import ServerClient, ServerError
from areal_cppo.rollout.servers.launching import first_weights, launcher
from areal_cppo.rollout.servers.owned import OwnedServer
from areal_cppo.rollout.servers.weights import Weights, wait_for_files
from areal_cppo.serving.listen import listen_address

logger = logging.getLogger("ServersEngine")

RESENT = "servers/resent"  # how often a request for a response was sent again


class ServersEngine(RemoteInfEngine):
    """AReaL's `RemoteInfEngine` with servers that may fail.

    Attributes
    ----------
    server
        The one that this worker started; None if it started none.
    fleet
        All servers, as far as the controller has told.
    """

    def __init__(self, config: InferenceEngineConfig, backend):
        super().__init__(config, backend)
        plain = not isinstance(config, CPPORolloutConfig)
        self.settings = ServersConfig() if plain else config.servers
        self.server: OwnedServer | None = None
        self.fleet = Fleet()
        self._token = ""
        self._vocabulary: int | None = None
        self._generator: Generator | None = None
        self._resent: Counter[tuple[str, str]] = Counter()
        self._resent_lock = threading.Lock()

    # Life

    def launch_server(self, server_args: dict[str, Any]) -> LocalInfServerInfo:
        """Start a server and watch it.

        Parameters
        ----------
        server_args
            As AReaL makes them; besides `token`, what requests must carry.

        Raises
        ------
        RunError
            It did not start.
        """
        args = dict(server_args)
        self._token = args.pop("token", "")
        args["host"], args["port"] = listen_address(), find_free_ports(1)[0]
        address = format_hostport(args["host"], args["port"])
        self.fleet = Fleet([address], own=address)
        self.server = OwnedServer(
            ServerClient(address, self._token),
            launcher(args, self._token),
            self.backend,
            self.settings,
            self.config.setup_timeout,
            first_weights(args),
            on_state=lambda state: self.fleet.set_state(address, state),
        )
        try:
            self.server.start()
        except ServerError as error:
            raise RunError(
                f"expected a generation server at {address} within "
                f"{self.config.setup_timeout:.0f} s, found that it did not start: "
                f"{error}; see the log of the rollout workers"
            ) from None
        return LocalInfServerInfo(host=args["host"], port=args["port"], process=None)

    def initialize(
        self,
        engine_id: str | None = None,
        addr: str | list[str] | None = None,
        train_data_parallel_size: int | None = None,
        token: str = "",
        model: str | None = None,
        servers: list[str] | None = None,
    ):
        """AReaL's; besides what servers ask for, the model's folder, all servers.

        Without `servers` the controller will tell of them.
        """
        self._token = token or self._token
        if model is not None:
            self._vocabulary = vocabulary_of(model)
        if self.server is not None:
            addr = [self.server.address]
        super().initialize(engine_id, addr, train_data_parallel_size)
        if servers is not None:
            self.fleet = Fleet(servers, own=self.addresses[0])

    def destroy(self):
        """End the server, too."""
        super().destroy()
        self.teardown_server()

    def teardown_server(self):
        """End the server, if there is one."""
        if self.server is not None:
            self.server.close()

    def server_status(self, states: dict[str, str]) -> dict[str, Any]:
        """How the server is, and what happened since the last call.

        Parameters
        ----------
        states
            Of all servers, as the controller knows them.
        """
        self.fleet.update(states)
        status = self.server.status()
        with self._resent_lock:
            resent, self._resent = self._resent, Counter()
        status["events"] += [
            {
                "event": "request_resent",
                "server": address,
                "reason": reason,
                "version": self.get_version(),
                "count": count,
                "seconds": 0.0,
                "time": time.time(),
            }
            for (address, reason), count in resent.items()
        ]
        return status

    # Responses

    async def agenerate(self, req: ModelRequest) -> ModelResponse:
        """A response; its `output_versions` are those its parts were sent with.

        Raises
        ------
        RequestFailed
            At every attempt, or there was no server.
        """
        if self._generator is None:
            self._generator = self._make_generator()
        if self.config.return_routed_experts:
            req = req.copy()
            req.metadata["return_routed_experts"] = True
        response, resent = await self._generator.generate(
            await workflow_context.get_aiohttp_session(),
            req,
            with_lora=self.config.use_lora,
            version=self.get_version,
            is_paused=self.workflow_executor.is_paused,
        )
        stats = stats_tracker.get(workflow_context.stat_scope())
        stats.scalar(**{RESENT: float(resent)})
        return response

    def _make_generator(self) -> Generator:
        if not self.fleet.addresses():
            self.fleet.update(dict.fromkeys(self.addresses, UP))
        return Generator(
            self.fleet,
            self.backend,
            self.settings,
            self.config.request_timeout,
            self._token,
            self._vocabulary,
            self._answered,
            self._count_resent,
        )

    def _answered(self, address: str, wrong: str | None) -> None:
        if self.server is None or address != self.server.address:
            return
        if wrong is None:
            self.server.answered(None)
        else:  # it may have to be ended, which takes a while: not in the event loop
            threading.Thread(target=self.server.answered, args=(wrong,)).start()

    def _count_resent(self, address: str, reason: str) -> None:
        with self._resent_lock:
            self._resent[address, reason] += 1

    # Control

    def pause_generation(self):
        """Stop generation; a server that is down is left alone."""
        self._control(self.backend.get_pause_request(), "pause")
        time.sleep(self.config.pause_grace_period)

    def continue_generation(self):
        """Go on generating.

        Raises
        ------
        RunError
            Weights came over the wire, and not all of them.
        """
        if self.server is not None:
            self._on_the_wire(self.server.resume)
        else:
            self._control(self.backend.get_resume_request(), "resume")

    def offload(self) -> None:
        """Give up the GPU's memory."""
        self._control(self.backend.get_offload_request(), "offload")

    def onload(self, tags: list[str] | None = None) -> None:
        """Take the GPU's memory again."""
        self._control(self.backend.get_onload_request(tags=tags), "onload", tags)

    def _control(self, request: HttpRequest, method: str, *arguments) -> None:
        if self.server is not None:
            getattr(self.server, method)(*arguments)
            return
        for address in self.fleet.addresses() or self.addresses:
            try:
                client = ServerClient(address, self._token)
                client.send(request, self.config.request_timeout)
            except ServerError as error:  # its own worker sees to it
                logger.warning("%s: %s", address, error)

    # Weights

    def update_weights_from_disk(self, meta: WeightUpdateMeta) -> Future[None]:
        """Load the weights in `meta.path` once the trainer has written them."""
        if self.server is None:
            return super().update_weights_from_disk(meta)
        before = self.get_version()
        weights = Weights.of_update(meta, before + 1)

        def wait() -> None:
            wait_for_files(
                self.config.experiment_name,
                self.config.trial_name,
                before,
                self.settings.update_seconds,
            )

        return _in_thread(lambda: self.server.update(weights, wait))

    def init_weights_update_group(
        self, meta: WeightUpdateMeta, xccl_group_ranks: list[int] | None = None
    ) -> Future[None]:
        """Join the group over which weights will come; a lost server is lost then."""
        if self.server is None:
            return super().init_weights_update_group(meta, xccl_group_ranks)
        rank = xccl_group_ranks[0] if xccl_group_ranks else 0
        address = self.server.address
        request = self.backend.build_init_weights_group_request(address, rank, meta)
        return _in_thread(lambda: self._on_the_wire(self.server.join, request))

    def update_weights_from_distributed(
        self, meta: WeightUpdateMeta, param_specs: list[ParamSpec]
    ) -> Future[None]:
        """Receive these parameters over the group."""
        if self.server is None:
            return super().update_weights_from_distributed(meta, param_specs)
        backend = self.backend
        updates = backend.build_distributed_weight_update_requests(meta, param_specs)
        version = self.get_version() + 1 if meta.version is None else meta.version
        return _in_thread(
            lambda: self._on_the_wire(self.server.receive, version, updates.requests)
        )

    def _on_the_wire(self, call: Callable[..., None], *arguments) -> None:
        try:
            call(*arguments)
        except ServerError as error:
            raise RunError(
                f"the generation server {self.server.address} failed in a weight "
                f"update over the wire ({error}); it can't join again: start the run "
                "again to go on from its last checkpoint, or set "
                "actor.weight_update_mode=disk"
            ) from None


def _in_thread(call: Callable[[], None]) -> Future[None]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future
