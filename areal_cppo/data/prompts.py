"""From a question to the prompt's text."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import ProcessorMixin

PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class PromptBuilder:
    """Puts a question and an instruction into a model's chat template.

    Attributes
    ----------
    processor
        The model's; its chat template is used, with the generation prompt.
    instruction
        A line behind the question; empty for none.
    """

    processor: ProcessorMixin
    instruction: str

    def text(self, question: str, n_images: int) -> str:
        """The prompt, with one of the model's image tokens for each image.

        Each placeholder becomes an image at its place; without any, the images come
        first. Nothing else of the question changes.
        """
        if PLACEHOLDER not in question:
            question = PLACEHOLDER * n_images + question
        if self.instruction:
            question += f"\n{self.instruction}"
        first, *rest = question.split(PLACEHOLDER)
        content = [{"type": "text", "text": first}] if first else []
        for text in rest:
            content.append({"type": "image"})
            if text:
                content.append({"type": "text", "text": text})
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

    def lengths(self, prompts: list[str]) -> list[int]:
        """Tokens of each prompt, each image's placeholder counting one."""
        if not prompts:
            return []
        return [len(ids) for ids in self.processor.tokenizer(prompts)["input_ids"]]
