"""The model that `--model` names, as a folder that transformers and SGLang load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from areal_cppo.config.keys import check_model, is_hub_name
from areal_cppo.errors import UserError

ADAPTERS = "adapter_config.json"  # what PEFT calls it
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
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    base = json.loads((adapters / ADAPTERS).read_text())["base_model_name_or_path"]
    if not base or not (Path(base).is_dir() or is_hub_name(base)):
        raise UserError(
            f"--model: expected the base model of the adapters in {adapters}, found "
            f"nothing at {base}; correct base_model_name_or_path in {ADAPTERS}"
        )
    note(f"adding the adapters to {base}, into {folder}")
    aside = folder.with_name(folder.name + ".part")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    PeftModel.from_pretrained(model, adapters).merge_and_unload().save_pretrained(aside)
    AutoProcessor.from_pretrained(base).save_pretrained(aside)
    aside.rename(folder)  # so that it is whole or not there
    return folder


def fingerprint(folder: Path) -> dict[str, str]:
    """Size and time of each file of weights: whether a folder was written over."""
    states = {path.name: path.stat() for path in sorted(folder.glob("*.safetensors"))}
    return {name: f"{s.st_size} {s.st_mtime_ns}" for name, s in states.items()}
