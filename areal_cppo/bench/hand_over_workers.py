"""A rollout worker and a trainer's rank without servers and model, for `hand_over`.

What moves a batch is AReaL's: a worker's HTTP with its calls and shards. All that the
two do is to make tensors as large as a real one's, and to keep what comes.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from areal.infra.rpc.guard import engine_blueprint
from areal.infra.rpc.guard.app import GuardState, create_app
from areal.infra.rpc.guard.data_blueprint import data_bp
from areal.infra.rpc.rtensor import clear_fetch_buffer, fetch_buffer_stats
from flask import Response, request
from werkzeug.serving import make_server

from areal_cppo.bench.quiet import quiet
from areal_cppo.config.blocks import SAME_AS
from areal_cppo.core import PatchLayout
from areal_cppo.step.batch import IMAGES, with_images

ENGINE = "default/0"  # as AReaL's controller calls that of its first worker
_HOST = "127.0.0.1"


class Rollout:
    """Makes groups of responses."""

    def group(
        self,
        seed: int,
        size: int,
        grid: list[int],
        prompt: int,
        response: int,
        once: bool,
    ) -> dict[str, Any]:
        """A group as the rollout workflow returns it.

        Parameters
        ----------
        seed
            Of pixels and tokens.
        size
            Responses.
        grid
            Height and width of their image, in patches.
        prompt, response
            Tokens of each.
        once
            Whether the first response alone carries the image.
        """
        generator = torch.Generator().manual_seed(seed)
        patches, features = grid[0] * grid[1], PatchLayout().patch_features
        images = {
            "pixel_values": torch.randn(patches, features, generator=generator),
            "image_grid_thw": torch.tensor([[1, *grid]]),
        }
        shape = size, prompt + response
        ids = torch.randint(1000, shape, generator=generator)
        mask = (torch.arange(shape[1]) >= prompt).expand(shape).contiguous()
        others: list[dict[str, Any]] = [{SAME_AS: 0} if once else dict(images)] * (
            size - 1
        )
        return {
            "input_ids": ids,
            "mm_token_type_ids": torch.zeros(shape, dtype=torch.long),
            "loss_mask": mask.int(),
            "logprobs": torch.zeros(shape),
            "versions": mask.int() - 1,
            "attention_mask": torch.ones(shape, dtype=torch.bool),
            IMAGES: [images, *others],
            "rewards": torch.zeros(size),
        }


class Rank:
    """Takes batches; in the place of `CPPOActor`."""

    def __init__(self):
        # AReaL's broadcast needs a group, be it of one rank.
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.context_and_model_parallel_group = dist.group.WORLD
        self._received: list[dict[str, Any]] = []

    def current_data_parallel_head(self) -> int:
        """Who broadcasts."""
        return 0

    def compute_advantages(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The groups, with the tensors that AReaL adds, and with their images."""
        names = "advantages", "returns", "kl_rewards", "tot_rewards"
        return [
            item | {name: torch.zeros_like(item["logprobs"]) for name in names}
            for item in map(with_images, data)
        ]

    def compute_advantages_only(
        self, data: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The same without their images."""
        results = self.compute_advantages(data)
        for item in results:
            del item[IMAGES]
        return results

    def ppo_update(self, data: list[dict[str, Any]]) -> None:
        """Keep what came."""
        self._received = list(map(with_images, data))

    def digests(self) -> list[str]:
        """Of the image of each response that came, in order."""
        return [
            hashlib.blake2b(image["pixel_values"].numpy()).hexdigest()
            for item in self._received
            for image in item[IMAGES]
        ]

    def clear_batches(self, shard_ids: list[str]) -> None:
        """Let go of a step's batch, as AReaL's engines do."""
        self._received = []
        clear_fetch_buffer(shard_ids)

    def fetch_buffer_stats(self) -> dict[str, int]:
        """As AReaL's engines have it."""
        return fetch_buffer_stats()


class Wire:
    """Counts the bytes of the bodies that a worker receives and sends."""

    def __init__(self):
        self._bytes = 0

    def count(self, response: Response) -> Response:
        """Add a request and its response."""
        sent = response.calculate_content_length() or 0
        self._bytes += (request.content_length or 0) + sent
        return response

    def bytes(self) -> int:
        """Since the start."""
        return self._bytes


def serve(kind: type, pipe: Connection) -> None:
    """A worker's process: send its port through the pipe, then serve until
    that is closed."""
    with quiet():
        _serve(kind, pipe)


def _serve(kind: type, pipe: Connection) -> None:
    state = GuardState()
    app = create_app(state)
    app.register_blueprint(data_bp)
    app.register_blueprint(engine_blueprint.engine_bp)
    wire = Wire()
    app.after_request(wire.count)
    engine_blueprint._engines.update({ENGINE: kind(), "wire": wire})
    server = make_server(_HOST, 0, app, threaded=True)
    state.server_host, state.server_port = _HOST, server.port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.port)
    with suppress(EOFError):
        pipe.recv()
