"""Versions of the weights, and how a server comes to hold them.

From disk: a server loads a folder, or is started with it. Or over the wire, a group of
processes (NCCL, gloo): the trainer's first rank sends parts, every server receives
them. From the first part on a server holds a mixture of two versions: its gate is
closed then, and opened for the new version once all parts have come, as the server
itself says (`areal_cppo.serving.held_weights`). A process that is started later can't
join the group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from areal.api import WeightUpdateMeta
from areal.api.io_struct import HttpRequest, get_versioned_lora_name
from areal.utils import name_resolve, names

from areal_cppo.rollout.servers.client import ServerClient, ServerError

_UNLOAD = "/unload_lora_adapter"
_POLL_SECONDS = 0.1

# Between the clocks of two nodes. A record from before a restart of the run is older: a
# restart takes longer.
_CLOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Weights:
    """A version of the weights.

    Attributes
    ----------
    version
        Of the policy; 0 before training.
    path
        Folder of the weights, or of a LoRA adapter; None: they came over the wire and
        are in no file.
    adapter
        Name under which servers hold the adapter; None: these are full weights.
    meta
        What AReaL builds the requests from; None: servers have them already.
    """

    version: int
    path: str | None
    adapter: str | None = None
    meta: WeightUpdateMeta | None = None

    @classmethod
    def of_server(cls, args: dict[str, Any]) -> Weights:
        """Those that a server is started with, of its arguments."""
        for entry in args.get("lora_paths") or []:
            adapter, _, path = str(entry).partition("=")
            return cls(0, path, adapter)
        return cls(0, str(args["model_path"]))

    @classmethod
    def of_update(cls, meta: WeightUpdateMeta, version: int) -> Weights:
        """Those of a weight update from disk; `version` if `meta` doesn't say."""
        number = version if meta.version is None else meta.version
        adapter = None
        if meta.use_lora:
            adapter = get_versioned_lora_name(meta.lora_name, number)
        return cls(number, str(meta.path), adapter, meta)

    def server_args(self) -> dict[str, Any]:
        """What of a server's arguments differs when it is started with these.

        The tokenizer's and the processor's path stays the first model's.
        """
        if self.meta is None:
            return {}
        if self.adapter is not None:
            return {"lora_paths": [f"{self.adapter}={self.path}"]}
        return {"model_path": self.path}

    def load_into(self, client: ServerClient, backend, timeout: float) -> None:
        """Make a server load them; nothing to do for those that it has.

        Raises
        ------
        ServerError
            It failed, refused, or took longer than `timeout` seconds.
        """
        if self.meta is None:
            return
        for request in backend.build_disk_weight_update_requests(self.meta).requests:
            try:
                client.order(request, timeout)
            except ServerError:
                # An older adapter may be gone; 2.0 calls loading one best effort, too.
                if request.endpoint != _UNLOAD:
                    raise


def wait_for_files(
    experiment: str,
    trial: str,
    version: int,
    timeout: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Wait until the trainer says that the files of an update are written.

    AReaL asks servers to load before it writes, and says when it is done under a name
    with the version before the update. After a restart such a record may be left from
    before: one that is older than this call does not count.

    Raises
    ------
    RuntimeError
        It did not say so within `timeout` seconds.
    """
    name = names.update_weights_from_disk(experiment, trial, version)
    called = clock()
    while clock() - called < timeout:
        try:
            if float(name_resolve.get(name)) >= called - _CLOCK_SECONDS:
                return
        except (name_resolve.NameEntryNotFoundError, ValueError):
            pass
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(
        f"expected the trainer to write the weights after version {version} in "
        f"{timeout:.0f} s, found no word of it; see the trainer's log, or raise "
        "rollout.servers.update_seconds"
    )


def in_thread(call: Callable[..., Any], *arguments) -> Future[Any]:
    """Call it; AReaL's workers wait for what it returns."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call, *arguments)
    pool.shutdown(wait=False)
    return future


class WireUpdates:
    """The weight updates of one server over the wire; a method at a time.

    Parameters
    ----------
    client
        Of the server.
    seconds
        Longest time of a request: setting up the group, receiving a part.

    Attributes
    ----------
    joined : bool
        The server belongs to the group, or has tried to.
    """

    def __init__(self, client: ServerClient, seconds: float):
        self.joined = False
        self._client = client
        self._seconds = seconds
        self._coming: int | None = None  # the version of which parts have come

    def join(self, request: HttpRequest) -> None:
        """Have the server join the group; waits for all the others.

        Raises
        ------
        ServerError
            It failed, or took too long.
        """
        self.joined = True
        self._client.order(request, self._seconds)

    def receive(self, version: int, requests: Iterable[HttpRequest]) -> None:
        """Have the server receive a part of a version.

        Raises
        ------
        ServerError
            It failed, took too long, or the version before is not complete.
        """
        if self._coming is None:
            self._client.open_for(None, self._seconds)
            self._coming = version
        elif self._coming != version:
            raise ServerError(
                f"version {version} began before version {self._coming} was complete"
            )
        for request in requests:
            self._client.order(request, self._seconds)

    def complete(self) -> Weights | None:
        """Open the server for the version of which all parts have come, if one has.

        Raises
        ------
        ServerError
            Something is missing, or not as it was sent.
        """
        if self._coming is None:
            return None
        missing = self._client.missing(self._seconds)
        if missing is not None:
            raise ServerError(
                f"it does not hold version {self._coming} of the weights: {missing}"
            )
        self._client.open_for(self._coming, self._seconds)
        weights = Weights(self._coming, path=None)
        self._coming = None
        return weights
