"""From a question to the prompt's text, and to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from areal_cppo.data.images import in_line
from areal_cppo.errors import UserError

PLACEHOLDER = "<image>"  # where in a question an image belongs
# A tokenizer that gives these back spells any character, byte by byte.
_ANY_LETTERS = "a\u00e9\u2603\u4e2d\U0001d11e\x01"


@dataclass(frozen=True)
class PromptBuilder:
    """Puts a question and an instruction into a model's chat template.

    Attributes
    ----------
    processor
        The model's; its chat template is used, with the generation prompt.
    instruction
        A line behind the question; empty for none.

    Raises
    ------
    UserError
        The processor has no chat template, or one that doesn't put text and images
        where they belong; or the instruction has letters without a token.
    """

    processor: ProcessorMixin
    instruction: str

    def __post_init__(self) -> None:
        fault = self._template_fault()
        if fault:
            raise UserError(
                "chat template: expected one that takes a message of text and images "
                f"and puts one image token at an image's place, found {fault}; use the "
                "processor files of the model it was trained from"
            )
        unknown = self.unknown(self.instruction)
        if unknown:
            raise UserError(
                "data.instruction: expected text that the model's tokenizer knows, "
                f"found {unknown}; use other words, or none: data.instruction="
            )

    def _template_fault(self) -> str:
        """What is wrong with the chat template, by what it makes of one question."""
        if not self.processor.chat_template:
            return "none"
        try:
            made = self._message(f"Before{PLACEHOLDER}after")
        except Exception as error:  # of jinja and transformers, of no common kind
            made, cause = "", in_line(f"{type(error).__name__}: {error}")
        else:
            cause = f"one that makes {in_line(made)!r} of an image between two words"
        first, *rest = made.split(self.processor.image_token)
        if len(rest) == 1 and "Before" in first and "after" in rest[0]:
            return ""
        if not made or "'type'" in made:  # the list of parts, printed as it is
            try:
                plain = "Before" in self._templated("Before")
            except Exception:
                plain = False
            return f"one that takes only plain text ({cause})" if plain else cause
        if not rest:
            return f"one that places no image ({cause})"
        return cause

    def text(self, question: str, n_images: int) -> str:
        """The prompt, with one of the model's image tokens for each image.

        Each placeholder becomes an image at its place; without any, the images come
        first. Nothing else of the question changes.
        """
        if PLACEHOLDER not in question:
            question = PLACEHOLDER * n_images + question
        if self.instruction:
            question += f"\n{self.instruction}"
        return self._message(question)

    def _message(self, question: str) -> str:
        first, *rest = question.split(PLACEHOLDER)
        content = [{"type": "text", "text": first}] if first else []
        for text in rest:
            content.append({"type": "image"})
            if text:
                content.append({"type": "text", "text": text})
        return self._templated(content)

    def _templated(self, content: str | list[dict[str, str]]) -> str:
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )

    def holds_images(self, prompt: str, n_images: int) -> bool:
        """Whether a prompt has as many image tokens as images.

        It has more when the question itself spells one out.
        """
        videos = prompt.count(self.processor.video_token)
        return prompt.count(self.processor.image_token) == n_images and not videos

    def unknown(self, text: str) -> str:
        """Which of a text's letters would be lost on the model; empty for none."""
        lost = [] if self._spells_all else self._lost(text)
        named = ", ".join(map(repr, list(dict.fromkeys(lost))[:5]))
        return f"no token for {in_line(named)}" if named else ""

    @cached_property
    def _spells_all(self) -> bool:
        return not self._lost(_ANY_LETTERS)

    def _lost(self, text: str) -> list[str]:
        """Pieces of a text that have no token, or only the one for the unknown."""
        tokenizer = self.processor.tokenizer
        try:
            read = tokenizer(text, return_offsets_mapping=True)
        except Exception:  # of tokenizers, of no common kind
            alone = [letter for letter in dict.fromkeys(text) if len(text) > 1]
            return [letter for letter in alone if self._lost(letter)] or [text]
        ids = read["input_ids"]
        unknown = [
            text[slice(*place)]
            for token, place in zip(ids, read["offset_mapping"], strict=True)
            if token == tokenizer.unk_token_id
        ]
        normalizer = tokenizer.backend_tokenizer.normalizer
        expected = normalizer.normalize_str(text) if normalizer else text
        kept = tokenizer.decode(ids)  # some tokenizers leave out what they don't know
        return unknown or [c for c in expected if c not in kept and not c.isspace()]

    def lengths(self, prompts: list[str]) -> list[int]:
        """Tokens of each prompt, each image's placeholder counting one."""
        if not prompts:
            return []
        return [len(ids) for ids in self.processor.tokenizer(prompts)["input_ids"]]


def processed(
    processor: ProcessorMixin, prompt: str, pictures: Sequence[Image.Image]
) -> BatchFeature:
    """A prompt and its pictures as the model takes them.

    Returns
    -------
    BatchFeature
        `input_ids` and `mm_token_type_ids`, int64 `[1, L]`; `pixel_values` `[P, F]` and
        `image_grid_thw` `[pictures, 3]`, where there are pictures.
    """
    return processor(
        images=list(pictures) or None,  # an empty list is an error to it
        text=[prompt],
        padding=False,
        return_tensors="pt",
        return_mm_token_type_ids=True,
    )
