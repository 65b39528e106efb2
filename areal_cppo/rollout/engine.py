"""What a rollout worker runs: AReaL's client of the generation servers.

The worker starts one server (`launch_server`) and answers for it. An engine that is
given addresses instead (`initialize(addr=...)`, as for evaluation) uses servers that
others watch. What becomes of servers that fail: `areal_cppo.rollout.servers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
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
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
from areal.utils import logging, stats_tracker
from areal.utils.network import find_free_ports, format_hostport
from typing_extensions import override

from areal_cppo.config.engines import CPPORolloutConfig
from areal_cppo.config.operation import ServersConfig
from areal_cppo.errors import RunError
from areal_cppo.rollout.requests import RESENT
from areal_cppo.rollout.servers.client import ServerClient, ServerError, vocabulary_of
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.rollout.servers.generation import Generator
from areal_cppo.rollout.servers.lifecycle import OwnedServer
from areal_cppo.rollout.servers.process import launcher
from areal_cppo.rollout.servers.weights import Weights, in_thread, wait_for_files
from areal_cppo.rollout.workflow import GroupWorkflow, WholeGroup
from areal_cppo.serving.listen import listen_address

logger = logging.getLogger("CPPOInfEngine")


class CPPOInfEngine(RemoteInfEngine):
    """AReaL's client, with servers that may fail, and with groups whole.

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

    # Life

    @override
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
        # Where roles share GPUs 2.0 counts those of the node; a worker sees its own.
        args = server_args | {"base_gpu_id": 0}
        args.pop("_awex_gpus_per_server", None)
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
            Weights.of_server(args),
            on_state=lambda state: self.fleet.set_state(address, state),
        )
        try:
            self.server.start()
        except ServerError as error:
            raise RunError(
                f"expected a generation server at {address}, found that it did not "
                f"start: {error}; see rollout.log below areal/logs of the run's "
                "folder; where it only takes longer raise rollout.setup_timeout "
                f"({self.config.setup_timeout:.0f} s)"
            ) from None
        return LocalInfServerInfo(host=args["host"], port=args["port"], process=None)

    @override
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
        if self.server is None:
            own = self.addresses[0] if servers else None
            self.fleet = Fleet(servers or self.addresses, own)

    @override
    def destroy(self):
        """End the server, too."""
        super().destroy()
        self.teardown_server()

    @override
    def teardown_server(self):
        """End the server, if there is one."""
        if self.server is not None:
            self.server.close()

    def server_status(self, states: dict[str, str]) -> dict[str, Any]:
        """How the server is, and what happened since; `states` are those of all."""
        self.fleet.update(states)
        return self.server.status()

    # Responses

    @override
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
        if self.server is not None and address == self.server.address:
            self.server.answered(wrong)

    def _count_resent(self, address: str, reason: str) -> None:
        if self.server is not None:
            self.server.count_resent(address, reason)

    @override
    def _resolve_workflow(
        self, workflow, workflow_kwargs, group_size=1, proxy_addr=None, **of_groups
    ):
        """AReaL's; 2.0 says more about groups, which `areal_fields` holds to false."""
        single = super()._resolve_workflow(workflow, workflow_kwargs, 1, proxy_addr)
        if group_size == 1:
            return single
        if isinstance(single, GroupWorkflow):
            return WholeGroup(single, group_size)
        return GroupedRolloutWorkflow(single, group_size, self.logger, **of_groups)

    # Control

    @override
    def pause_generation(self):
        """Stop generation; a server that is down is left alone."""
        self._control(self.backend.get_pause_request(), "pause")
        time.sleep(self.config.pause_grace_period)

    @override
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

    @override
    def offload(self, **tags: list[str] | None) -> None:
        """Give up the GPU's memory; 2.0 can name a part of it."""
        self._control(self.backend.get_offload_request(**tags), "offload", **tags)

    @override
    def onload(self, tags: list[str] | None = None) -> None:
        """Take the GPU's memory again."""
        self._control(self.backend.get_onload_request(tags=tags), "onload", tags)

    def _control(self, request: HttpRequest, method: str, *arguments, **more) -> None:
        if self.server is not None:
            getattr(self.server, method)(*arguments, **more)
            return
        for address in self.fleet.addresses():
            try:
                client = ServerClient(address, self._token)
                client.send(request, self.config.request_timeout)
            except ServerError as error:  # its own worker sees to it
                logger.warning("%s: %s", address, error)

    # Weights

    @override
    def update_weights_from_disk(self, meta: WeightUpdateMeta) -> Future[str | None]:
        """Load the weights in `meta.path` once the trainer has written them.

        The result is the folder of older weights that has to stay, or None.
        """
        before, config = self.get_version(), self.config
        written = partial(
            wait_for_files,
            *(config.experiment_name, config.trial_name),
            *(before, self.settings.update_seconds),
        )
        weights = Weights.of_update(meta, before + 1)
        return in_thread(self.server.update, weights, written)

    @override
    def init_weights_update_group(
        self, meta: WeightUpdateMeta, xccl_group_ranks: list[int] | None = None
    ) -> Future[None]:
        """Join the group over which weights will come; a lost server is lost then."""
        request = self.backend.build_init_weights_group_request(
            self.server.address, xccl_group_ranks[0] if xccl_group_ranks else 0, meta
        )
        return in_thread(self._on_the_wire, self.server.join, request)

    @override
    def update_weights_from_distributed(
        self, meta: WeightUpdateMeta, param_specs: list[ParamSpec]
    ) -> Future[None]:
        """Receive these parameters over the group."""
        backend = self.backend
        updates = backend.build_distributed_weight_update_requests(meta, param_specs)
        version = self.get_version() + 1 if meta.version is None else meta.version
        receive = self.server.receive
        return in_thread(self._on_the_wire, receive, version, updates.requests)

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
