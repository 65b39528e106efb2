"""Take the pictures of README and docs in a real browser.

    python -m tests.report.pictures --report PAGE --out FOLDER

Writes report.png (the first screen of the report PAGE), views.png and inspect.png
(`areal-cppo views` and `inspect` of the triangles' first held-out problem), in 256
colours.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from areal_cppo.tasks.experiment import HELDOUT_SEED
from areal_cppo.tasks.problems import reading_task
from tests.report import chromium

MODEL = "areal_cppo/tasks/triangles/checkpoint"
WIDTH = 1100


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.report.pictures")
    parser.add_argument("--report", type=Path, required=True, metavar="PAGE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    problem = reading_task("triangles").make_problem(HELDOUT_SEED, 0, "held_out")
    image, page = str(out / "triangle.png"), out / "inspect.html"
    problem.image.save(image)
    views = ["views", image, "-o", str(out / "views.png")]
    inspect = ["inspect", "--model", MODEL, "--image", image, "--prompt", "P?"]
    inspect += ["--seed", "1", "-o", str(page)]
    for command in (views, inspect):
        subprocess.run(["areal-cppo", *command], check=True)
    with chromium.started() as browser:
        with chromium.visit(browser, args.report.resolve(), width=WIDTH) as seen:
            take(seen.page, out / "report.png", height=1315)
        with chromium.visit(browser, page.resolve(), width=WIDTH) as seen:
            take(seen.page, out / "inspect.png", height=1210)
    for file in out.glob("*.png"):
        Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)


def take(page: Page, file: Path, height: int) -> None:
    """The first `height` CSS pixels of a page."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.screenshot(path=file)


if __name__ == "__main__":
    main()
