"""A second task: reading the heights of three bars against the lines of a chart.

Tokenizer, processor, architecture and warm-up are those of `areal_cppo.tasks`.
Nothing here needs torch or transformers.
"""

from __future__ import annotations

from pathlib import Path


def checkpoint_dir() -> Path:
    """Folder of the model that comes with the package (`synthetic.warmup`)."""
    return Path(__file__).parent / "checkpoint"
