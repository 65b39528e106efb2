"""A problem as a request: what is sent for it, and what never is.

A response that contains a vision token can't be used: whoever reads it looks for one
more image. If generation is interrupted by a weight update, AReaL sends prompt and
partial response again; SGLang would answer 500 to such a one, and to one that ends with
the mark before an image, AReaL would retry, print the request with its images and lose
the whole group, and the server would count as broken. So it is refused before that.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from areal.api import ModelRequest
from areal.api.cli_args import GenerationHyperparameters
from areal.engine.sglang_remote import SGLangBackend
from typing_extensions import override

from areal_cppo.data.prompts import processed
from areal_cppo.rollout.refusals import VisionTokenSampled

RESENT = "servers/resent"  # how often a request for a response was sent again

IMAGE_MARK = "<|vision_start|>"
IMAGE_TOKENS = ("<|image_pad|>", "<|video_pad|>")
VISION_TOKENS = (IMAGE_MARK, "<|vision_end|>", *IMAGE_TOKENS)
_IMAGE_TENSORS = ("pixel_values", "image_grid_thw")


@dataclass(frozen=True)
class Prompt:
    """What all responses to a problem share; `P` tokens, image tokens expanded."""

    input_ids: list[int]  # P
    mm_token_type_ids: list[int]  # P
    text: str  # decoded again
    images: list[str]  # base64 of PNG
    tensors: dict[str, torch.Tensor]  # of `_IMAGE_TENSORS`; empty without an image

    @classmethod
    def of(
        cls, problem: Mapping[str, Any], processor, tokenizer, images: list[str]
    ) -> Prompt:
        """An item of a dataset as AReaL's vision workflow prepares it.

        Parameters
        ----------
        problem
            With `images` and `messages`, the text of the prompt.
        processor, tokenizer
            The model's.
        images
            Those of the problem, base64 of PNG.
        """
        found = processed(processor, problem["messages"], problem["images"])
        input_ids = found["input_ids"][0].tolist()
        return cls(
            input_ids=input_ids,
            mm_token_type_ids=found["mm_token_type_ids"][0].tolist(),
            text=tokenizer.decode(input_ids),
            images=images,
            tensors={key: found[key] for key in _IMAGE_TENSORS if key in found},
        )

    def request(
        self, gconfig: GenerationHyperparameters, processor, tokenizer
    ) -> ModelRequest:
        """What is sent for one response."""
        return ModelRequest(
            rid=uuid.uuid4().hex,
            input_ids=self.input_ids,
            image_data=self.images,
            gconfig=gconfig.new(n_samples=1),
            tokenizer=tokenizer,
            processor=processor,
        )


class CPPOBackend(SGLangBackend):
    """AReaL's SGLang requests, but none that SGLang would fail on."""

    @override
    def build_generation_request(self, req, with_lora, version):
        """AReaL's request, called just before it is sent.

        Raises `VisionTokenSampled` if there are more images in the tokens than there
        are images, or the mark of one at their end.
        """
        vocabulary = req.tokenizer.get_vocab()
        ids = {vocabulary[token] for token in IMAGE_TOKENS if token in vocabulary}
        runs = sum(is_image for is_image, _ in groupby(i in ids for i in req.input_ids))
        marked = req.input_ids[-1:] == [vocabulary.get(IMAGE_MARK)]
        if runs > len(req.image_data or []) or marked:
            raise VisionTokenSampled
        return super().build_generation_request(req, with_lora, version)
