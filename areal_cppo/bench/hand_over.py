"""`bench hand-over`: bytes and seconds between rollout and the trainer's update.

A rollout worker, a trainer's rank and AReaL's controller, each a process, hand batches
over as a run does: advantages, then the update. Once as AReaL does it, with the image
in every response, and once as `step/controller.py` does, by turns.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import requests
from areal.api import Worker
from areal.infra.rpc.serialization import deserialize_value, serialize_value
from areal.trainer.ppo.actor import PPOActorController

from areal_cppo.bench import hand_over_workers as workers
from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import PatchLayout
from areal_cppo.errors import RunError
from areal_cppo.report.table import table
from areal_cppo.step.controller import CPPOActorController

WAYS = {"before": PPOActorController, "after": CPPOActorController}
_AT_ONCE = 2**28  # bytes of pixels, counted per response, that are handed over at once


@dataclass(frozen=True)
class Amount:
    """What is handed over.

    Attributes
    ----------
    responses
        How many, a multiple of `group`.
    group
        Responses a prompt.
    prompt, response
        Tokens of each.
    seed
        Of pixels and tokens.
    """

    responses: int = 512
    group: int = 8
    prompt: int = 400
    response: int = 400
    seed: int = 1


@dataclass
class Moved:
    """What it took to hand over a batch with images of one size in one way."""

    image: tuple[int, int]  # height and width, pixels
    way: str
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Caller:
    """In the place of AReaL's scheduler: calls the engine of the worker at a port."""

    port: int

    def call(
        self, method: str, *args: Any, engine: str = workers.ENGINE, **others: Any
    ) -> Any:
        """Call it; `others` are `rpc_meta` and keyword arguments."""
        asked = {
            "method": method,
            "engine_name": engine,
            "args": serialize_value(list(args)),
            "rpc_meta": others.pop("rpc_meta", None),
            "kwargs": serialize_value(others),
        }
        answer = requests.post(f"http://127.0.0.1:{self.port}/call", json=asked)
        if not answer.ok:
            raise RunError(f"{method}: {answer.text[:500]}")
        return deserialize_value(answer.json()["result"])

    async def async_call_engine(
        self, worker_id: str, method: str, engine_name: str, *args: Any, **others: Any
    ) -> Any:
        """As AReaL's controller calls."""
        return self.call(method, *args, **others)

    def bytes(self) -> int:
        """That it has received and sent."""
        return self.call("bytes", engine="wire")


def measure(
    images: Sequence[tuple[int, int]],
    amount: Amount,
    note: Callable[[str], None],
    results: list[Moved],
) -> None:
    """Hand the batch over in all ways, with images of each size (height and width).

    `results` gets an entry per size and way, to which is added as it goes on.

    Raises
    ------
    RunError
        Other images arrived in one way than in another.
    """
    layout = PatchLayout()
    with _worker(workers.Rollout) as first, _worker(workers.Rank) as second:
        rollout, rank = Caller(first.recv()), Caller(second.recv())
        for image in images:
            grid = [side // layout.patch_size for side in image]
            size = grid[0] * grid[1] * layout.patch_features * 4 * amount.group
            moved = {way: Moved(image, way) for way in WAYS}
            results.extend(moved.values())
            groups = list(range(amount.responses // amount.group))
            at_once = max(1, _AT_ONCE // size)
            for start in range(0, len(groups), at_once):
                some = groups[start : start + at_once]
                arrived = [
                    _hand_over(rollout, rank, amount, grid, some, moved[way])
                    for way in WAYS
                ]
                if arrived[0] != arrived[1]:
                    raise RunError("other images arrived than AReaL hands over")
            for each in moved.values():
                note(
                    f"{image[0]} x {image[1]}, {each.way}: {each.bytes / 1e9:.2f} GB, "
                    f"{each.seconds:.1f} s"
                )


def _hand_over(
    rollout: Caller,
    rank: Caller,
    amount: Amount,
    grid: list[int],
    groups: list[int],
    moved: Moved,
) -> list[str]:
    """Hand some groups over and add what it took; digests of what arrived."""
    config = CPPOActorConfig(backend="fsdp:d1", experiment_name="", trial_name="")
    controller = WAYS[moved.way](None, config, rank)
    controller.workers = [Worker(id="rank", ip="", worker_ports=[], engine_ports=[])]
    controller.workers_is_dp_head = [True]
    before = rollout.bytes() + rank.bytes()
    sizes = amount.group, grid, amount.prompt, amount.response
    trajectories = [
        rollout.call("group", amount.seed + g, *sizes, moved.way == "after")
        for g in groups
    ]
    began = time.perf_counter()
    with_advantages = controller.compute_advantages(trajectories)
    controller.ppo_update(with_advantages)
    moved.seconds += time.perf_counter() - began
    moved.bytes += rollout.bytes() + rank.bytes() - before
    digests = rank.call("digests")
    controller.clear_batches(trajectories, with_advantages)
    return digests


@contextmanager
def _worker(kind: type) -> Iterator[Connection]:
    """Within, a process with an engine of that kind, which sends its port."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=workers.serve, args=(kind, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    except EOFError:
        raise RunError("bench hand-over: a worker ended before it began") from None
    finally:
        process.kill()
        process.join()


def describe(results: Sequence[Moved], amount: Amount) -> list[dict[str, Any]]:
    """For JSON: a dict a size and way, with ratios to AReaL's."""
    first = {each.image: each for each in results if each.way == "before"}
    return [
        {
            "image": list(each.image),
            "way": each.way,
            "responses": amount.responses,
            "bytes": each.bytes,
            "seconds": each.seconds,
            "bytes_ratio": each.bytes / max(1, first[each.image].bytes),
            "seconds_ratio": each.seconds / max(1e-9, first[each.image].seconds),
        }
        for each in results
    ]


def results_table(described: Sequence[dict[str, Any]]) -> str:
    """A line a size and way."""
    rows = [
        (
            "{} x {}".format(*each["image"]),
            each["way"],
            f"{each['bytes'] / 1e9:.2f}",
            f"x{each['bytes_ratio']:.3f}",
            f"{each['seconds']:.1f}",
            f"x{each['seconds_ratio']:.3f}",
        )
        for each in described
    ]
    return table(["image", "way", "GB", "", "seconds", ""], rows, words=2)
