"""From pictures to the patches that a model of the Qwen-VL family takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, Qwen2VLImageProcessorFast

from areal_cppo.config.blocks import DataConfig
from areal_cppo.core import PatchLayout
from areal_cppo.data.images import ExtremeAspectRatio, ResizeRule
from areal_cppo.errors import UserError
from areal_cppo.inspection.files import no_processor, processor_source


@dataclass(frozen=True)
class PictureInput:
    """How pictures reach the model, or would reach it.

    Attributes
    ----------
    image_processor
        Of transformers.
    layout
        How it patches.
    name
        Whose it is, for people.
    rule
        The resizing that training's data does before; `None` without a configuration.
    """

    image_processor: Any
    layout: PatchLayout
    name: str
    rule: ResizeRule | None = None

    @classmethod
    def of(
        cls, image_processor: Any, name: str, data: DataConfig | None
    ) -> PictureInput:
        """The input of an image processor, with the block `data` of a configuration.

        Raises
        ------
        UserError
            The processor is of another family, or leaves no size within its limits and
            the configuration's.
        """
        try:
            layout = PatchLayout.from_image_processor(image_processor)
        except ValueError as error:
            raise UserError(f"--model: {error}") from error
        bare = cls(image_processor, layout, name)
        if data is None:
            return bare
        return cls(image_processor, layout, name, ResizeRule.of(bare, data))

    @classmethod
    def default(cls, data: DataConfig | None) -> PictureInput:
        """What Qwen2-VL and Qwen2.5-VL have where nothing else is said."""
        return cls.of(Qwen2VLImageProcessorFast(), "Qwen2.5-VL's defaults", data)

    @classmethod
    def of_model(cls, model: str, data: DataConfig | None) -> PictureInput:
        """That of a model's folder, or of a downloaded model; no weights are read.

        Raises
        ------
        UserError
            There is none; or as `of`.
        """
        try:
            image_processor = AutoImageProcessor.from_pretrained(
                processor_source(model), local_files_only=True, use_fast=True
            )
        except (OSError, ValueError) as error:
            raise no_processor(model) from error
        return cls.of(image_processor, Path(model).name, data)

    def patches(
        self, pictures: Sequence[Image.Image]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`pixel_values` `[P, F]` fp32 and `image_grid_thw` `[pictures, 3]` int64.

        Raises
        ------
        UserError
            A picture is too long and thin for any size.
        """
        inputs = self.image_processor(
            images=[self.resized(picture) for picture in pictures],
            return_tensors="pt",
        )
        return inputs["pixel_values"], inputs["image_grid_thw"]

    def resized(self, picture: Image.Image) -> Image.Image:
        """As training's data resizes it; the processor does the rest, if any."""
        try:
            if max(picture.size) > 200 * min(picture.size):  # the processor's limit
                raise ExtremeAspectRatio("{} x {}".format(*picture.size))
            return self.rule.apply(picture) if self.rule else picture
        except ExtremeAspectRatio as error:
            raise UserError(
                "image: expected a picture at most 200 times as long as it is wide, "
                f"found {error} pixels; crop it"
            ) from error

    def tokens(self, grid: torch.Tensor) -> int:
        """Tokens that pictures of that grid become."""
        return int(grid.prod(dim=1).sum()) // self.layout.merge_size**2


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Several pictures in a row, as one; a single one as it is."""
    if len(pictures) == 1:
        return pictures[0]
    gap = 8
    width = sum(picture.width + gap for picture in pictures) - gap
    row = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row
