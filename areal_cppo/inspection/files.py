"""What a command line names: pictures and runs, read before torch is imported."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from areal_cppo.config.keys import is_hub_name
from areal_cppo.data.images import BrokenImage, MissingImage, load_image
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.report.samples import SampleView, read_samples

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def read_picture(path: str) -> Image.Image:
    """An image file as training reads it: upright, 8-bit RGB.

    Raises
    ------
    UserError
        There is no such file, or it holds no picture.
    """
    try:
        return load_image(Path(path).expanduser())
    except MissingImage:
        raise UserError(
            f"image: expected an image file, found none at {path}; correct the path"
        ) from None
    except BrokenImage as error:
        raise UserError(
            f"image: expected a PNG, JPEG, WebP, GIF, BMP, TIFF or PPM picture, found "
            f"{error}; convert it to one of these"
        ) from error


def processor_source(model: str) -> str | Path:
    """Where a model's image processor is: its folder, or a downloaded model's name.

    Raises
    ------
    UserError
        There is none.
    """
    folder = Path(model).expanduser()
    known = [(folder / file).is_file() for file in PROCESSOR_FILES]
    if any(known) or is_hub_name(model):
        return folder if folder.exists() else model
    raise no_processor(model)


def no_processor(model: str) -> UserError:
    """That a model has no image processor."""
    return UserError(
        "--model: expected a model's folder with an image processor "
        f"({' or '.join(PROCESSOR_FILES)}), found none at {model}; give a Qwen-VL "
        "model, or leave --model out"
    )


def run_folder(path: str) -> RunFolder:
    """The folder of a run, with its configuration.

    Raises
    ------
    UserError
        It is none.
    """
    folder = RunFolder(Path(path).expanduser())
    if not folder.config.is_file():
        raise UserError(
            f"--run: expected a run's folder with config.yaml, found none at {path}; "
            "give the folder that a run wrote"
        )
    return folder


def last_checkpoint(folder: RunFolder) -> Path:
    """The latest of a run's checkpoints.

    Raises
    ------
    UserError
        It has none.
    """
    found = {
        int(path.name.removeprefix("step-")): path
        for path in folder.checkpoints.glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    }
    if not found:
        raise UserError(
            f"--run: expected checkpoints/step-* in {folder.path}, found none; wait "
            "for the run's first, or give --model DIR"
        )
    return found[max(found)]


def written_samples(folder: RunFolder) -> list[SampleView]:
    """The samples that the run wrote at its end; none of a run without.

    Raises
    ------
    UserError
        They can't be read.
    """
    if not (folder.path / "samples.json").is_file():
        return []
    try:
        return read_samples(folder.path)
    except ValueError as error:
        raise UserError(f"--run: samples.json: {error}") from error
