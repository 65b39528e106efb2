"""What one trainer rank has to write to go on to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from areal.api.io_struct import SaveLoadMeta

from areal_cppo.errors import RunError

WEIGHTS = "actor"


def save_rank(engine, folder: str) -> None:
    """Write weights, optimiser, learning-rate scheduler and random states.

    A collective of all ranks of AReaL's `engine`: they write their shards of weights
    and optimiser together, and a file each of the rest.
    """
    engine.save(_meta(folder))
    scheduler = engine.lr_scheduler
    state = {
        "world_size": dist.get_world_size(),
        "lr_scheduler": None if scheduler is None else scheduler.state_dict(),
        "random": random_states(),
    }
    torch.save(state, _own_file(folder))
    dist.barrier(group=engine.cpu_group)


def load_rank(engine, folder: str) -> None:
    """Go on from what `save_rank` wrote.

    Weights and optimiser are sharded anew if the number of ranks is another; the
    random states are then those of a fresh start.

    Raises
    ------
    RunError
        A file is missing or can't be read.
    """
    engine.load(_meta(folder))
    own = _own_file(folder)
    file = own if own.exists() else own.with_name("rank-00000.pt")
    try:
        # Only tensors and plain values: nothing of a file is executed.
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"checkpoint: expected a readable {file}: {error}") from error
    if engine.lr_scheduler is not None:
        engine.lr_scheduler.load_state_dict(state["lr_scheduler"])
    if state["world_size"] == dist.get_world_size():
        set_random_states(state["random"])


def random_states() -> dict[str, Any]:
    """Those of Python, NumPy and torch, of tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": (version, list(words), gauss),
        "numpy": (name, keys.tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set what `random_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(
        (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _meta(folder: str) -> SaveLoadMeta:
    return SaveLoadMeta(
        path=str(Path(folder) / WEIGHTS),
        weight_format="dcp",
        with_optim=True,
        tokenizer=None,
        processor=None,
        base_model_path=None,
    )


def _own_file(folder: str) -> Path:
    return Path(folder) / f"rank-{dist.get_rank():05d}.pt"
