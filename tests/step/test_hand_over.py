"""Images cross to the trainer once a group, and what is trained on is the same.

The real controller and actor; AReaL's shards, with a store that counts in the place of
its HTTP, and calls serialized as its scheduler does. `bench hand-over` measures the
real thing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from areal.api import Worker
from areal.infra.rpc import rtensor
from areal.infra.rpc.rtensor import RTensor
from areal.infra.rpc.serialization import deserialize_value, serialize_value
from areal.utils.data import concat_padded_tensors

from areal_cppo.config.blocks import SAME_AS, SAMPLE
from areal_cppo.step.actor import CPPOActor
from areal_cppo.step.batch import IMAGES, with_images
from tests.step import harness


class Store:
    """In the place of AReaL's HTTP: shards by number, and what was fetched of them."""

    def __init__(self):
        self.shards: dict[str, torch.Tensor] = {}
        self.fetched: list[tuple[int, ...]] = []

    def store(self, tensor):
        self.shards[str(len(self.shards))] = tensor
        return str(len(self.shards) - 1)

    def fetch(self, shards):
        found = [self.shards[shard.shard_id] for shard in shards]
        self.fetched += [tuple(tensor.shape) for tensor in found]
        return [tensor.clone() for tensor in found]

    async def delete(self, node_addr, shard_ids):
        for shard_id in shard_ids:
            self.shards.pop(shard_id, None)

    def images_fetched(self) -> int:
        return sum(shape[-1:] == (1176,) for shape in self.fetched)


class Scheduler:
    """Calls the actor as AReaL's worker does; an update is kept, not made."""

    def __init__(self, actor: CPPOActor):
        self.actor = actor
        self.updates: list[dict[str, Any]] = []
        self.broadcast: list[bool] = []

    async def async_call_engine(self, worker, method, engine, *args, rpc_meta=None):
        self.broadcast.append(rpc_meta["broadcast"])
        args = RTensor.localize(deserialize_value(serialize_value(list(args))))
        if method == "ppo_update":
            self.updates += args[0]
            return None
        if method in ("clear_batches", "fetch_buffer_stats"):
            return getattr(self.actor, method)(*args)
        result = RTensor.remotize(getattr(self.actor, method)(*args), "here")
        return deserialize_value(serialize_value(result))


@pytest.fixture
def store():
    store = Store()
    rtensor.set_backend(store)
    yield store
    rtensor.set_backend(None)
    rtensor.clear_fetch_buffer()


def controller_of(actor: CPPOActor, ranks: int = 1):
    config = harness.actor_config("", ranks)
    controller = CPPOActor.as_controller(config, Scheduler(actor))
    controller.workers = [Worker(str(i), "", [], []) for i in range(ranks)]
    controller.workers_is_dp_head = [True] * ranks
    return controller


def folded(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A group as rollout returns it: the first response carries the images."""
    group = concat_padded_tensors(items)
    first, *others = group[IMAGES]
    group[IMAGES] = [first, *({SAME_AS: 0} if first else {} for _ in others)]
    return group


def groups() -> list[list[dict[str, Any]]]:
    """Of four; of three, with two images; one alone; two without an image."""
    batch = harness.grouped_batch()
    return [batch[:4], batch[4:7], [batch[9]], batch[10:]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_update_is_the_same_and_images_are_fetched_once(actor, store, ranks):
    whole = [concat_padded_tensors(items) for items in groups()]
    expected, _ = harness.update_gradient(actor, harness.prepared(actor, whole))

    controller = controller_of(actor, ranks)
    batch = [RTensor.remotize(folded(items), "there") for items in groups()]
    for item, logprobs in zip(batch, controller.compute_logp(batch), strict=True):
        item["prox_logp"] = logprobs
    ready = controller.compute_advantages(batch)
    assert [item[IMAGES] for item in ready] == [item[IMAGES] for item in batch]
    controller.ppo_update(ready)
    assert store.images_fetched() == 3  # of the groups with images, and not again
    assert not any(controller.scheduler.broadcast)
    got, _ = harness.update_gradient(actor, controller.scheduler.updates)
    if ranks == 2:  # the ranks' groups one after the other
        assert harness.relative_difference(got, expected) < 1e-5
    else:
        assert torch.equal(got, expected)
    controller.clear_batches(batch, ready)
    assert actor.fetch_buffer_stats() == {"num_entries": 0} and not store.shards


def test_broadcast_stays_where_ranks_share_a_batch(actor, store):
    controller = controller_of(actor)
    controller.train_alloc = type(controller.train_alloc).from_str("fsdp:d1t2")
    batch = [RTensor.remotize(folded(groups()[0]), "there")]
    controller.ppo_update(batch)
    assert controller.scheduler.broadcast == [True]


def test_each_response_has_its_images_again():
    one, other = ({"pixel_values": torch.rand(4, 2)} for _ in range(2))
    item = {
        "rewards": torch.zeros(5),
        IMAGES: [
            one | {SAMPLE: {"id": 1}},
            {SAME_AS: 0},
            other,
            {SAME_AS: 2, SAMPLE: {"id": 2}},
            {},
        ],
    }
    got = with_images(item)[IMAGES]
    assert [image.get("pixel_values") is one["pixel_values"] for image in got] == [
        *(True, True, False, False, False)
    ]
    assert got[3] == other | {SAMPLE: {"id": 2}} and got[4] == {}
    assert SAMPLE not in got[1]  # that of the first is its own
    assert item[IMAGES][1] == {SAME_AS: 0}
    assert with_images({"rewards": torch.zeros(1)}).keys() == {"rewards"}
