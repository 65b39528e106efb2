"""What the workflow adds to the samples of a run (`areal_cppo.run.samples`).

A response takes along, among its images, what its trainer can't know of it. A refused
one has no trainer: it is written down here, a few a step.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from areal import workflow_context
from areal.utils import logging
from PIL import Image

from areal_cppo.config.blocks import SAMPLE_PICTURES, SAMPLE_SIDE
from areal_cppo.rewards.parts import Reward
from areal_cppo.rollout.refusals import Refused
from areal_cppo.rollout.requests import Prompt

logger = logging.getLogger("RefusedSamples")

MOST = 3  # refused responses that wait to be gathered


def about(problem: Mapping[str, Any], reward: Reward | None = None) -> dict[str, Any]:
    """What a sample says of its problem and, if it has one, of its reward: JSON."""
    names = "query_id", "question", "answer"
    said: dict[str, Any] = {name: str(problem.get(name, "")) for name in names}
    return said | {"parts": reward.parts if reward else {}}


class RefusedSamples:
    """Writes down refused responses.

    Parameters
    ----------
    folder
        Where they wait to be gathered (`RunFolder.pending`); None: none is kept.
    """

    def __init__(self, folder: str | None):
        self.folder = Path(folder) if folder else None

    def keep(
        self, refused: Sequence[Refused], problem: Mapping[str, Any], prompt: Prompt
    ) -> None:
        """Write one of each reason of those to a problem, unless enough are waiting."""
        if self.folder is None or workflow_context.get().is_eval:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            room = MOST - len(list(self.folder.glob("refused-*.pt")))
            by_reason = {each.reason: each for each in refused}
            for each in list(by_reason.values())[: max(0, room)]:
                self._write(each, problem, prompt)
        except OSError as error:  # no reason to end a run
            logger.warning("a refused response was not kept to be read: %s", error)

    def _write(
        self, refused: Refused, problem: Mapping[str, Any], prompt: Prompt
    ) -> None:
        tokens = zip(prompt.input_ids, prompt.mm_token_type_ids, strict=True)
        images = problem["images"]
        record = about(problem) | {
            "reason": refused.reason,
            "prompt": [token for token, of_image in tokens if not of_image],
            "ids": list(refused.tokens),
            "images": len(images),
            "pictures": {"anchor": [_small(each) for each in images[:SAMPLE_PICTURES]]},
        }
        whole = io.BytesIO()  # what torch says of a full disk is no OSError
        torch.save(record, whole)
        aside = self.folder / f"refused-{uuid.uuid4().hex}.part"
        aside.write_bytes(whole.getvalue())
        aside.rename(aside.with_suffix(".pt"))


def _small(image: Image.Image) -> torch.Tensor:
    """uint8 `[height, width, 3]`, no side above `SAMPLE_SIDE`."""
    small = image.convert("RGB")
    small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    return torch.from_numpy(np.array(small))
