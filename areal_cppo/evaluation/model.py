"""The model that `--model` names, as a folder that transformers and SGLang load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from areal_cppo.config.keys import check_model, is_hub_name
from areal_cppo.errors import UserError

ADAPTERS = "adapter_config.json"  # what PEFT calls it
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MERGED = "merged-model"
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")


def find_model(name: str) -> Path:
    """The folder that `name` says, of a model or of adapters; nothing is written.

    Parameters
    ----------
    name
        A model's folder, a folder of LoRA adapters, or the name of a model that was
        downloaded from the hub.

    Raises
    ------
    UserError
        There is no such model, or it has no image processor.
    """
    folder = Path(name).expanduser()
    if (folder / ADAPTERS).is_file():
        return folder
    if is_hub_name(name):
        return _downloaded(name)
    return _with_processor(folder)


def model_folder(name: str, out: Path, note: Callable[[str], None]) -> Path:
    """The folder to serve.

    Parameters
    ----------
    name
        As of `find_model`.
    out
        Where the model that adapters and their base make is written.
    note
        Told before what takes long.

    Raises
    ------
    UserError
        There is no such model or base, or it has no image processor.
    """
    folder = find_model(name)
    if (folder / ADAPTERS).is_file():
        folder = _with_processor(_merged(folder, out / MERGED, note))
    return folder


def _with_processor(folder: Path) -> Path:
    folder = check_model(folder).absolute()
    if not any((folder / file).is_file() for file in _PROCESSOR):
        raise UserError(
            f"--model: expected an image processor in {folder}, found neither "
            f"{' nor '.join(_PROCESSOR)}; copy it from the model it was trained from"
        )
    return folder


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"--model: expected a folder or a downloaded model, found neither for "
            f"{name}; download it with `hf download {name}`"
        ) from error


def _merged(adapters: Path, folder: Path, note: Callable[[str], None]) -> Path:
    """Adapters added to the weights of their base; what is there already is used."""
    if folder.is_dir():
        return folder
    from transformers import AutoModelForImageTextToText, AutoProcessor

    base = _base_of(adapters)
    note(f"adding the adapters to {base}, into {folder}")
    aside = folder.with_name(folder.name + ".part")
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model: expected weights of the base model of the adapters in "
            f"{adapters}, found {_one_line(error)}; correct base_model_name_or_path in "
            f"{ADAPTERS}, or download {base}"
        ) from error
    _with_adapters(model, adapters, base).save_pretrained(aside)
    AutoProcessor.from_pretrained(base).save_pretrained(aside)
    aside.rename(folder)  # so that it is whole or not there
    return folder


def _base_of(adapters: Path) -> str:
    try:
        settings = json.loads((adapters / ADAPTERS).read_text())
        base, kind = settings.get("base_model_name_or_path"), settings.get("peft_type")
    except (ValueError, AttributeError) as error:
        raise _unfit(adapters, f"an unreadable {ADAPTERS} ({error})") from error
    if not any((adapters / name).is_file() for name in _ADAPTER_WEIGHTS):
        raise _unfit(adapters, f"no {_ADAPTER_WEIGHTS[0]}")
    if kind != "LORA":
        raise _unfit(adapters, f"adapters of type {kind}")
    if not base or not (Path(base).is_dir() or is_hub_name(base)):
        raise UserError(
            f"--model: expected the base model of the adapters in {adapters}, found "
            f"nothing at {base}; correct base_model_name_or_path in {ADAPTERS}"
        )
    return base


def _with_adapters(model: Any, adapters: Path, base: str) -> Any:
    """The model with all of the adapters in its weights, and nothing but them.

    PEFT leaves out a tensor without a place, and leaves a place without a tensor as it
    was made: without any effect.
    """
    from peft import PeftModel

    mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    try:
        tuned = PeftModel.from_pretrained(model, adapters)
        # Once more, for what it says.
        loaded = tuned.load_adapter(str(adapters), "default", key_mapping=mapping)
    except Exception as error:  # of PEFT, torch and safetensors, of no common kind
        raise _unfit(adapters, _one_line(error), base) from error
    for words, names in (
        ("without a place in it", loaded.unexpected_keys),
        ("missing", loaded.missing_keys),
    ):
        if names:
            found = f"{len(names):,} tensor(s) {words}, as {min(names)}"
            raise _unfit(adapters, found, base)
    try:
        return tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:  # NaN
        raise _unfit(adapters, _one_line(error), base) from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _unfit(adapters: Path, found: str, base: str = "their base model") -> UserError:
    return UserError(
        f"--model: expected LoRA adapters in {adapters} that fit {base}, tensor by "
        f"tensor, found {found}; give the folder that training wrote, or correct "
        f"base_model_name_or_path in {ADAPTERS}"
    )


def fingerprint(folder: Path) -> dict[str, str]:
    """Size and time of each file of weights: whether a folder was written over."""
    states = {path.name: path.stat() for path in sorted(folder.glob("*.safetensors"))}
    return {name: f"{s.st_size} {s.st_mtime_ns}" for name, s in states.items()}
