"""The cheap checks before a run: versions, model, resources, GPUs and disk.

Each raises a `UserError` of one line. Data is checked where it is loaded
(`areal_cppo.data`), which takes longer.
"""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoTokenizer

from areal_cppo.config import SDPA, TASK_NAMES, TORCH_FLASH
from areal_cppo.config.budget import checkpoint_bytes
from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.keys import check_model, is_hub_name
from areal_cppo.config.models import (
    check_no_code,
    check_supported,
    count_parameters,
    read_model_config,
)
from areal_cppo.config.resources import check_resources
from areal_cppo.doctor import Check
from areal_cppo.doctor.machine import check_disk, check_torch_flash
from areal_cppo.doctor.packages import check_flash_attn, check_versions
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.run.claim import check_new

_INDEX = "model.safetensors.index.json"
_RUN_BYTES = 300 * 2**20  # traces, logs and report of a run


def check_settings(config: CPPOConfig) -> dict[str, Any]:
    """What needs neither a GPU nor weights: versions, the model's config, resources.

    Returns
    -------
    dict
        What the model's config.json says.
    """
    check_versions()
    model_config = check_model_config(config.actor)
    check_resources(config, model_config)
    check_tokenizer(config, model_config)
    return model_config


def check_start(config: CPPOConfig) -> None:
    """What a run needs besides: weights, GPUs of this machine, disk."""
    check_weights(config.actor)
    check_gpus(config)
    check_run_disk(config)


def check_model_config(actor: CPPOActorConfig) -> dict[str, Any]:
    """The config.json of the model to start from, of a supported type.

    `actor.path` is a folder or a name on the hub; the latter is looked up in the hub's
    cache where `HF_HUB_OFFLINE` is set.
    """
    if not is_hub_name(actor.path):
        check_model(actor.path, "actor.path")
    elif _offline():
        cached_model(actor.path, ["config.json"])
    model_config = read_model_config(actor.path)
    check_no_code(actor.path)
    check_supported(
        model_config,
        uses_views=actor.uses_views,
        backend=actor.backend,
        tree_training=actor.enable_tree_training,
    )
    return model_config


def check_tokenizer(config: CPPOConfig, model_config: dict[str, Any]) -> None:
    """There is a tokenizer, and the model has all of its tokens."""
    path = config.tokenizer_path
    try:
        size = len(AutoTokenizer.from_pretrained(path))
    except Exception as error:  # what transformers raises depends on what is missing
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"tokenizer_path: expected a folder, or a name on the hub, with a "
            f"tokenizer, found {path!r}: {lines[0]}; set it to ${{actor.path}}"
        ) from error
    text = model_config.get("text_config", model_config)
    known = text.get("vocab_size", model_config.get("vocab_size"))
    if known is not None and size > known:
        raise UserError(
            f"tokenizer_path: expected at most the {known} tokens of actor.path, found "
            f"{size}, another model's; set it to ${{actor.path}}"
        )


def check_weights(actor: CPPOActorConfig) -> None:
    """All weights are there, or can be fetched."""
    if is_hub_name(actor.path):
        if not _offline():
            return
        folder = cached_model(actor.path, ["*.json", "*.safetensors"])
    else:
        folder = Path(actor.path).expanduser()
    missing = missing_weights(folder)
    if missing:
        raise UserError(
            f"actor.path: expected safetensors weights in {folder}, found no "
            f"{missing[0]}; download the model again"
        )


def missing_weights(folder: Path) -> list[str]:
    """Files of weights that a model's folder should have and hasn't."""
    index = folder / _INDEX
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [name for name in files if not (folder / name).is_file()]
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]


def cached_model(name: str, patterns: list[str]) -> Path:
    """The folder of a model in the hub's cache; the hub is not asked."""
    try:
        folder = snapshot_download(name, allow_patterns=patterns, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"actor.path: expected {name} in the hub's cache, found none in "
            f"{constants.HF_HUB_CACHE}; run `hf download {name}` where there is a "
            "network, or set HF_HUB_OFFLINE=0"
        ) from error
    return Path(folder)


def check_gpus(config: CPPOConfig) -> None:
    """The local scheduler has the GPUs that the configuration counts on."""
    wanted = config.cluster.n_gpus_per_node
    if not wanted or config.scheduler.type != "local":
        return
    found = torch.cuda.device_count()
    if found < wanted:
        mend = "run on a machine with more, or take a configuration for fewer"
        if not found and torch.version.cuda is None:
            mend = "this torch is a CPU build: make setup-gpu in a clone without .venv"
        raise UserError(
            f"cluster.n_gpus_per_node: expected at most the {found} GPU(s) that torch "
            f"sees here, found {wanted}; {mend} (docs/recipes.md)"
        )
    kernel = config.actor.attn_impl
    if kernel != SDPA:
        check = check_torch_flash() if kernel == TORCH_FLASH else check_flash_attn()
        if not check.ready:
            raise UserError(
                f"actor.attn_impl: expected {kernel} to work here, found "
                f"{check.found}; {check.remedy}; or set actor.attn_impl=sdpa"
            )


def check_run_disk(config: CPPOConfig) -> None:
    """The run's folder is free, with room for the checkpoints that it will write."""
    check_new(RunFolder(config.run_dir), config.recover.on)
    needed = _RUN_BYTES + checkpoint_bytes(config, count_parameters(config.actor.path))
    check = check_disk("run_dir", Path(config.run_dir), needed)
    if check.lacking:
        raise UserError(check.as_line())


def check_data_path(name: str, path: str) -> Check:
    """Whether data is on this machine; the task that loads it says more.

    Parameters
    ----------
    name
        Of the setting.
    path
        A folder, a file or a glob of files, or a name on the hub.
    """
    if path in TASK_NAMES:
        return Check(name, True, "drawn as needed")
    if glob.glob(str(Path(path).expanduser())):
        return Check(name, True, path)
    if not is_hub_name(path):
        remedy = "expected a folder, files or a hub name: download it, or mend the path"
        return Check(name, False, f"nothing at {path}", remedy)
    cached = Path(constants.HF_HUB_CACHE, "datasets--" + path.replace("/", "--"))
    if cached.is_dir():
        return Check(name, True, f"{path}, in the hub's cache")
    remedy = f"hf download --repo-type dataset {path}"
    found = f"{path}, not in the hub's cache: {constants.HF_HUB_CACHE}"
    return Check(name, False, found, remedy, required=_offline())


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE") == "1"
