"""A model of the Qwen-VL family, asked and judged through transformers.

Letters: `L` prompt tokens, `T` response tokens, `V` vocabulary, `P` patches, `F`
features of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.utils.logging import disable_progress_bar

from areal_cppo.config.blocks import DataConfig
from areal_cppo.config.models import VISION_MODELS
from areal_cppo.data.prompts import processed
from areal_cppo.errors import RunError, UserError
from areal_cppo.inspection.picture_input import PictureInput
from areal_cppo.inspection.tokens import token_texts
from areal_cppo.patches.transformers import correct_image_positions


@dataclass(frozen=True)
class Question:
    """A prompt and its pictures, as the model takes them.

    Attributes
    ----------
    text
        The prompt, with the chat template around it.
    ids, kinds
        int64 `[1, L]`: tokens, and which of them are of a picture (1).
    pixel_values, grid
        fp `[P, F]` and int64 `[pictures, 3]`.
    """

    text: str
    ids: torch.Tensor
    kinds: torch.Tensor
    pixel_values: torch.Tensor
    grid: torch.Tensor


class VisionModel:
    """Loads a model's folder.

    Parameters
    ----------
    folder
        Of a model with its processor, as `save_pretrained` or training write it.
    device
        Of torch; empty for a GPU where there is one.
    data
        The block `data` of a configuration, whose image sizes are used; or `None`.

    Raises
    ------
    UserError
        The model is of another family, it has no processor, or there is no such
        device.
    """

    def __init__(self, folder: Path, device: str = "", data: DataConfig | None = None):
        _check_family(folder)
        self.device = _device(device)
        self.processor = _processor(folder)
        self.input = PictureInput.of(self.processor.image_processor, folder.name, data)
        correct_image_positions()
        disable_progress_bar()  # a line is all that the command prints
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"--model: expected weights that transformers loads in {folder}, "
                f"found: {_one_line(error)}; give a folder written by save_pretrained "
                "or by training"
            ) from error
        self.model = model.to(self.device).eval()
        self.ends = _ends(self.model.generation_config, self.processor.tokenizer)
        # What a checkpoint suggests (repetition penalties, nuclei) is no part of the
        # policy that is trained.
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.ends, pad_token_id=self.ends[0]
        )

    def ask(self, prompt: str, pictures: Sequence[Image.Image]) -> Question:
        """A prompt with the chat template already around it, and its pictures.

        Raises
        ------
        UserError
            The prompt has not one image token a picture, or holds what the tokenizer
            has no token for.
        """
        resized = [self.input.resized(picture) for picture in pictures]
        try:
            inputs = processed(self.processor, prompt, resized).to(self.device)
        except Exception as error:  # of tokenizers and processors, of no common kind
            raise UserError(
                "--prompt: expected text that the model's processor takes, found "
                f"{prompt[-60:]!r}: {_one_line(error)}; say it in other words"
            ) from error
        return Question(
            prompt,
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            inputs["pixel_values"],
            inputs["image_grid_thw"],
        )

    def read(self, response: str) -> torch.Tensor:
        """A given response's tokens, with the one that ends it: int64 `[T]`.

        Raises
        ------
        UserError
            It holds what the tokenizer has no token for, or an image token.
        """
        tokenizer = self.processor.tokenizer
        try:
            ids = tokenizer(response, add_special_tokens=False)["input_ids"]
        except Exception as error:  # of tokenizers, of no common kind
            raise UserError(
                "--response: expected text that the model's tokenizer knows, found "
                f"{response[:60]!r}: {_one_line(error)}; say it in other words"
            ) from error
        if self.model.config.image_token_id in ids:
            raise UserError(
                "--response: expected text, found an image token in it; leave it out"
            )
        if not ids or ids[-1] not in self.ends:
            ids = [*ids, tokenizer.eos_token_id]
        return torch.tensor(ids, device=self.device)

    def generate(
        self, question: Question, limit: int, temperature: float, seed: int
    ) -> torch.Tensor:
        """Generate a response, by transformers: int64 `[T]`, its end included.

        Parameters
        ----------
        limit
            Tokens at which it is cut off.
        temperature
            0 is greedy.
        seed
            Of the draws, where it is not.
        """
        how = {"do_sample": False}
        if temperature > 0:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0}
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            ids = self.model.generate(
                input_ids=question.ids,
                attention_mask=torch.ones_like(question.ids),
                mm_token_type_ids=question.kinds,
                pixel_values=question.pixel_values,
                image_grid_thw=question.grid,
                max_new_tokens=limit,
                **how,
            )[0, question.ids.shape[1] :]
        if (ids == self.model.config.image_token_id).any():
            raise RunError(
                "the model's response holds an image token: nothing to judge"
            )
        return ids

    @torch.no_grad()
    def logits(
        self, question: Question, response: torch.Tensor, pixel_values: torch.Tensor
    ) -> torch.Tensor:
        """Logits `[T, V]` of a response `[T]`, given pictures in place of the prompt's.

        `pixel_values` is `[P, F]`, of the same grid. Row `t` predicts token `t`.
        """
        ids = torch.cat([question.ids, response[None]], dim=1)
        kinds = torch.cat([question.kinds, torch.zeros_like(response)[None]], dim=1)
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=kinds,
            pixel_values=pixel_values,
            image_grid_thw=question.grid,
            use_cache=False,
            logits_to_keep=len(response) + 1,
        )
        return output.logits[0, :-1]

    def pieces(self, response: torch.Tensor) -> list[str]:
        """Each token's text, as `token_texts` has it."""
        return token_texts(self.processor.tokenizer, response.tolist())


def _check_family(folder: Path) -> None:
    config, _ = PreTrainedConfig.get_config_dict(folder)
    found = config.get("model_type", "")
    if found not in VISION_MODELS:
        raise UserError(
            f"--model: expected a model of type {', '.join(VISION_MODELS)}, found "
            f"{found!r}, whose image patches were never tested; use one of these"
        )


def _device(name: str) -> torch.device:
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device: expected cpu or a device that torch finds, found {name}: "
            f"{_one_line(error)}; leave it out"
        ) from error
    return device


def _processor(folder: Path) -> ProcessorMixin:
    try:
        processor = AutoProcessor.from_pretrained(
            folder, local_files_only=True, use_fast=True
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model: expected a processor in {folder}, found: {_one_line(error)}; "
            "copy it from the model it was trained from"
        ) from error
    if not isinstance(processor, ProcessorMixin):  # of text models, a tokenizer
        raise UserError(
            f"--model: expected an image processor in {folder}, found none; copy it "
            "from the model it was trained from"
        )
    return processor


def _ends(config: GenerationConfig | None, tokenizer) -> list[int]:
    """Tokens that end a response; the tokenizer's own comes first."""
    named = config.eos_token_id if config else None
    ids = named if isinstance(named, list) else [named]
    ends = [tokenizer.eos_token_id, *ids]
    return [int(end) for end in dict.fromkeys(ends) if end is not None]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
