"""The embedded task, reading a triangle's side lengths, and a model small enough.

`task` and `drawing` need neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path


def checkpoint_dir(name: str = "checkpoint") -> Path:
    """Folder of a model that comes with the package (see `warmup.make_model`)."""
    return Path(__file__).parent / name
