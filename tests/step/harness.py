"""A real AReaL FSDP actor on a tiny random Qwen2.5-VL, and batches to feed it.

Not a test itself. Used in this process (one rank) and in the ranks that
`distributed.py` starts.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from areal.api import FinetuneSpec
from areal.api.cli_args import MicroBatchSpec, OptimizerConfig
from areal.utils.data import concat_padded_tensors

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.core import CPLConfig, PatchLayout, patchify
from areal_cppo.step.actor import CPPOActor
from areal_cppo.tasks.model import build_model
from areal_cppo.tasks.tokenizer import build_processor

LAYOUT = PatchLayout(image_mean=(0.925,) * 3, image_std=(0.25,) * 3)
VISION_START, VISION_END, IMAGE = 2, 3, 4  # ids of the triangle vocabulary
FIRST_TEXT, VOCABULARY = 6, 29


def make_model_folder(folder: Path) -> Path:
    """A random tiny model whose weights are large enough for attention to matter."""
    model = build_model(seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def actor_config(folder: Path, world: int = 1, **settings: Any) -> CPPOActorConfig:
    defaults: dict[str, Any] = {
        "backend": f"fsdp:d{world}",
        "experiment_name": "test",
        "trial_name": "test",
        "path": str(folder),
        "dtype": "float32",
        "attn_impl": "sdpa",
        "disable_dropout": True,
        "gradient_checkpointing": False,
        "mb_spec": MicroBatchSpec(n_mbs=1),
        "optimizer": OptimizerConfig(
            type="adam", lr=1e-3, lr_scheduler_type="constant", gradient_clipping=1e9
        ),
        "ppo_n_minibatches": 1,
        "recompute_logprob": True,
        "use_decoupled_loss": True,
        "kl_ctl": 0.0,
        "adv_norm": None,
        "reward_norm": None,
        "cpl": CPLConfig(coef=1.0),
    }
    return CPPOActorConfig(**(defaults | settings))


def make_actor(config: CPPOActorConfig) -> CPPOActor:
    """The actor, ready to train; one rank unless the environment says otherwise."""
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(free_port())
    actor = CPPOActor(config)
    actor.create_process_group()
    actor.initialize(
        None, FinetuneSpec(total_train_epochs=1, dataset_size=8, train_batch_size=8)
    )
    return actor


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_ranks(script: Path, world: int, *arguments: str | Path, seconds: int) -> None:
    """Run `python script *arguments` as `world` ranks; a hang ends after `seconds`."""
    environment = {
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=os.environ | environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=seconds)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()


def trajectory(
    seed: int,
    n_response: int,
    reward: float,
    grid: tuple[int, int] = (4, 4),
    *more_grids: tuple[int, int],
    n_prompt: int = 3,
    version: int = 0,
    layout: PatchLayout = LAYOUT,
) -> dict[str, Any]:
    """One response as the rollout workflow returns it, with a random image per grid
    (height and width in patches of `layout`)."""
    grids = (grid, *more_grids)
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randn(
            3, *(side * layout.patch_size for side in grid), generator=generator
        )
        for grid in grids
    ]
    text = torch.randint(
        FIRST_TEXT, VOCABULARY, (n_prompt + n_response,), generator=generator
    )
    ids = []
    for height, width in grids:
        n_image = height * width // layout.merge_size**2
        ids += [VISION_START, *[IMAGE] * n_image, VISION_END]
    ids += text.tolist()
    n, start = len(ids), len(ids) - n_response
    logprobs = torch.zeros(1, n)
    logprobs[0, start:] = -torch.rand(n_response, generator=generator) - 2.5
    return {
        "input_ids": torch.tensor([ids]),
        "mm_token_type_ids": torch.tensor([[int(i == IMAGE) for i in ids]]),
        "loss_mask": torch.tensor([[0] * start + [1] * n_response], dtype=torch.int32),
        "logprobs": logprobs,
        "multi_modal_input": [
            {
                "pixel_values": patchify(images, layout),
                "image_grid_thw": torch.tensor([[1, *grid] for grid in grids]),
            }
        ],
        "versions": torch.tensor(
            [[-1] * start + [version] * n_response], dtype=torch.int32
        ),
        "attention_mask": torch.ones(1, n, dtype=torch.bool),
        "rewards": torch.tensor([reward]),
    }


def text_only(item: dict[str, Any]) -> dict[str, Any]:
    """The same response without its images and their tokens."""
    keep = item["mm_token_type_ids"][0] == 0
    kept = {
        key: value[:, keep] if torch.is_tensor(value) and value.ndim == 2 else value
        for key, value in item.items()
    }
    return kept | {"multi_modal_input": [{}]}


def group(
    seed: int,
    lengths: list[int],
    rewards: list[float],
    *grids: tuple[int, int],
    n_prompt: int = 5,
    layout: PatchLayout = LAYOUT,
) -> list[dict[str, Any]]:
    """Responses to one prompt, each with a copy of its images; one item a response."""
    items = [
        trajectory(
            100 * seed + i, length, reward, *grids, n_prompt=n_prompt, layout=layout
        )
        for i, (length, reward) in enumerate(zip(lengths, rewards, strict=True))
    ]
    first = items[0]
    start = int(first["loss_mask"].argmax())
    for item in items[1:]:
        item["input_ids"][:, :start] = first["input_ids"][:, :start]
        images = first["multi_modal_input"][0]
        item["multi_modal_input"] = [{k: v.clone() for k, v in images.items()}]
    return items


GROUP_SIZES = (4, 3, 2, 1, 2)  # of `grouped_batch`


def in_groups(
    items: list[dict[str, Any]], sizes: Sequence[int] = GROUP_SIZES
) -> list[dict[str, Any]]:
    """Responses put together by groups, an item each, as the workflow returns them."""
    ends = [0, *accumulate(sizes)]
    return [concat_padded_tensors(items[a:b]) for a, b in pairwise(ends) if b > a]


def grouped_batch(layout: PatchLayout = LAYOUT) -> list[dict[str, Any]]:
    """Two groups of uneven responses, one of them with two images; a third whose prompt
    has the first's image; one alone; one without an image. Six are gated, in three
    groups and alone, and have images."""
    first = group(1, [12, 5, 20, 9], [1.0, -1.0, 1.0, -1.0], (4, 4), layout=layout)
    other = group(2, [7, 11], [1.0, 1.0], (4, 4), n_prompt=3, layout=layout)
    for item in other:
        item["multi_modal_input"] = [dict(first[0]["multi_modal_input"][0])]
    return [
        *first,
        *group(3, [3, 8, 2], [-1.0, 1.0, -1.0], (4, 2), (2, 6), layout=layout),
        *other,
        trajectory(4, 13, 1.0, (6, 4), layout=layout),
        *map(text_only, group(5, [6, 4], [1.0, -1.0], (2, 2), layout=layout)),
    ]


def uneven_batch() -> list[dict[str, Any]]:
    """Five responses: other lengths, other image sizes, two without a positive
    advantage."""
    return [
        trajectory(1, 12, 1.0, (4, 4)),
        trajectory(2, 20, -1.0, (4, 6), n_prompt=9),
        trajectory(3, 7, 1.0, (6, 4)),
        trajectory(4, 3, -1.0, (4, 4), n_prompt=1),
        trajectory(5, 31, 1.0, (2, 4), n_prompt=5),
    ]


def prepared(actor: CPPOActor, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The batch with proximal log-probs and advantages, as AReaL's trainer makes it."""
    batch = [dict(item) for item in batch]
    for item, logprobs in zip(batch, actor.compute_logp(batch), strict=True):
        item["prox_logp"] = logprobs
    return actor.compute_advantages(batch)


def update_gradient(
    actor: CPPOActor, batch: list[dict[str, Any]]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Gradient of one update as one vector, and its statistics; weights unchanged."""
    gradients: list[torch.Tensor] = []
    step = actor.optimizer_step

    def keep_gradient() -> dict[str, float]:
        for parameter in actor.model.parameters():
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            if hasattr(gradient, "full_tensor"):
                gradient = gradient.full_tensor()
            gradients.append(gradient.detach().flatten().clone())
        return {}

    actor.optimizer_step = keep_gradient
    try:
        actor.ppo_update([dict(item) for item in batch])
    finally:
        actor.optimizer_step = step
    actor.optimizer_zero_grad()
    return torch.cat(gradients), actor.export_stats()


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
