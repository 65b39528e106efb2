"""The embedded task: reading a triangle's side lengths.

Nothing here needs torch or transformers.
"""

from __future__ import annotations

from pathlib import Path


def checkpoint_dir(name: str = "checkpoint") -> Path:
    """Folder of a model that comes with the package (`synthetic.warmup`)."""
    return Path(__file__).parent / name
