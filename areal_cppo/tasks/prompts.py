"""What a model is given: a question, and how large the picture is.

Questions are of one length, so that prompts are of one length whose pictures have the
same number of patches.
"""

from __future__ import annotations

from typing import NamedTuple

from areal_cppo.tasks.pictures import IMAGE_SIDE, MERGE, PATCH
from areal_cppo.tasks.responses import QUESTION

GRID = IMAGE_SIDE // PATCH  # patches, the side of most pictures


class TaskPrompt(NamedTuple):
    """A question about a picture of so many patches; the defaults are most tasks'."""

    question: str = QUESTION
    rows: int = GRID
    columns: int = GRID

    @property
    def n_patches(self) -> int:
        """Of the picture."""
        return self.rows * self.columns

    @property
    def n_image_tokens(self) -> int:
        """Of the picture, after merging 2 x 2 patches."""
        return self.n_patches // MERGE**2
