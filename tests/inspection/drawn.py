"""A picture and a run to look at. Not a test itself."""

import shutil
from pathlib import Path

from PIL import Image, ImageDraw

from areal_cppo.tasks.problems import TRIANGLES

CONFIG = str(Path(__file__).parents[2] / "configs" / "triangles.yaml")
MODEL = str(TRIANGLES.checkpoint)


def picture(size: tuple[int, int] = (84, 84)) -> Image.Image:
    """Shapes and colours, so that every perturbation shows."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    draw = ImageDraw.Draw(image)
    width, height = size
    box = (width // 4, height // 4, width // 2, height // 2)
    draw.rectangle(box, fill=(200, 40, 40))
    draw.line((0, height, width, 0), fill=(20, 90, 200), width=max(2, width // 20))
    return image


def run_folder(folder: Path, checkpoints: tuple[int, ...]) -> Path:
    """A run's folder: its configuration and copies of the tiny model."""
    folder.mkdir()
    shutil.copy(CONFIG, folder / "config.yaml")
    for step in checkpoints:
        shutil.copytree(MODEL, folder / "checkpoints" / f"step-{step:05d}")
    return folder
