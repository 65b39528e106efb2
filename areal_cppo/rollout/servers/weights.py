"""One version of the weights: where its files are, and how a server loads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from areal.api import WeightUpdateMeta
from areal.api.io_struct import get_versioned_lora_name
from areal.utils import name_resolve, names

from areal_cppo.rollout.servers.http import ServerClient, ServerError

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
        Folder of the weights, or of a LoRA adapter; None: they came over the wire
        (`areal_cppo.rollout.servers.wire`) and are in no file.
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
    def of_update(cls, meta: WeightUpdateMeta, version: int) -> Weights:
        """Those of a weight update from disk; `version` if `meta` doesn't say."""
        number = version if meta.version is None else meta.version
        adapter = None
        if meta.use_lora:
            adapter = get_versioned_lora_name(meta.lora_name, number)
        return cls(number, str(meta.path), adapter, meta)

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
                answer = client.send(request, timeout)
            except ServerError:
                if request.best_effort:
                    continue
                raise
            refused = isinstance(answer, dict) and answer.get("success") is False
            if refused and not request.best_effort:
                raise ServerError(f"{request.endpoint} answered that it failed")


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
