"""Prompts of a given shape, for any model with a Hugging Face processor."""

from __future__ import annotations

import base64
import io
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from areal_cppo.bench.workload import check_whole
from areal_cppo.errors import UserError


@dataclass(frozen=True)
class Shape:
    """What a request looks like.

    Attributes
    ----------
    prompt_tokens
        Of text; those of an image come on top.
    response_tokens
        Exactly so many are generated: the end-of-sequence token is ignored.
    image_size
        Side of the prompt's image, pixels; 0: no image.
    group
        Responses a prompt. Prompts differ, so that a server's prefix cache serves
        within a group only.
    """

    prompt_tokens: int
    response_tokens: int
    image_size: int = 0
    group: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_whole(name, value, 0 if name == "image_size" else 1)


@dataclass(frozen=True)
class MeasuredPrompt:
    """As it is sent."""

    input_ids: list[int]  # image tokens expanded
    images: list[str]  # base64 of PNG


class PromptMaker:
    """Makes prompts for a model.

    Parameters
    ----------
    model
        Folder with tokenizer and processor, or a name on the hub.
    shape
        Of the requests.
    seed
        Of tokens and pixels.

    Raises
    ------
    UserError
        The model's folder has no tokenizer, or no image processor for an image.
    """

    def __init__(self, model: str | Path, shape: Shape, seed: int = 1):
        from areal.utils.hf_utils import load_hf_processor_and_tokenizer

        try:
            loaded = load_hf_processor_and_tokenizer(str(model))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--model: expected a folder with the model's tokenizer, found {model}:"
                f" {reason}; give the folder that the server serves"
            ) from error
        self.processor, self.tokenizer = loaded
        self.shape = shape
        self._random = random.Random(seed)
        if shape.image_size and getattr(self.processor, "image_token", None) is None:
            raise UserError(
                f"--image-size: expected a vision-language model, found {model}, which "
                "has no image processor; leave it out"
            )
        special = set(self.tokenizer.added_tokens_decoder)
        special |= set(self.tokenizer.all_special_ids)
        known = self.tokenizer.get_vocab().values()
        self._ordinary = sorted(set(known) - special)

    def __call__(self) -> MeasuredPrompt:
        """One more."""
        text = self._random.choices(self._ordinary, k=self.shape.prompt_tokens)
        if not self.shape.image_size:
            return MeasuredPrompt(text, [])
        picture = self._picture()
        ids = self.processor(images=[picture], text=[self._image_text()])["input_ids"]
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        code = base64.b64encode(buffer.getvalue()).decode()
        return MeasuredPrompt([int(token) for token in ids[0]] + text, [code])

    def _picture(self) -> Any:
        """Noise in blocks of 14 pixels: no two are alike, and PNG packs them."""
        from PIL import Image

        size = self.shape.image_size
        blocks = -(-size // 14)
        pixels = self._random.randbytes(3 * blocks * blocks)
        small = Image.frombytes("RGB", (blocks, blocks), pixels)
        return small.resize((size, size), Image.Resampling.NEAREST)

    def _image_text(self) -> str:
        """An image's place in a prompt, as Qwen's chat templates have it."""
        vocabulary = self.tokenizer.get_vocab()
        around = ("<|vision_start|>", "<|vision_end|>")
        before, after = (token if token in vocabulary else "" for token in around)
        return f"{before}{self.processor.image_token}{after}"
