"""The embedded task as a user's own data: pictures on disk and a table of problems.

So the runs read real files, which can be broken while they are being read.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.responses import QUESTION

TABLE = "problems.jsonl"


def write_problems(
    folder: Path, count: int, seed: int, answers: dict[int, str]
) -> Path:
    """Write `count` problems; returns the table. `answers` replaces true answers."""
    images = folder / "images"
    images.mkdir(parents=True)
    with (folder / TABLE).open("w", encoding="utf-8") as table:
        for index in range(count):
            problem = TRIANGLES.make_problem(seed, index, "train")
            problem.image.save(image_file(folder, index))
            row = {
                "problem": QUESTION,
                "answer": answers.get(index, str(problem.answer)),
                "images": f"images/{index}.png",
                "id": str(index),
            }
            table.write(json.dumps(row) + "\n")
    return folder / TABLE


def image_file(folder: Path, index: int) -> Path:
    return folder / "images" / f"{index}.png"


def break_image(file: Path, how: str, rng: random.Random) -> None:
    """Do to a picture what disks and copies do; see `BREAKAGES`."""
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(content[: rng.randrange(40, len(content) // 2)])
    elif how == "garbage":
        file.write_bytes(rng.randbytes(len(content)))
    else:
        raise ValueError(f"expected one of {BREAKAGES}, got {how!r}")


BREAKAGES = ("gone", "empty", "cut", "garbage")
