"""The 29 tokens of prompts and responses, and how a text is cut into them."""

from __future__ import annotations

import re

PAD, EOS = "<pad>", "<eos>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
THINK, THINK_END, BOXED, BOXED_END = "<think>", "</think>", "\\boxed{", "}"
CONTROL_TOKENS = (PAD, EOS, VISION_START, VISION_END, IMAGE, VIDEO)
ANSWER_TOKENS = (THINK, THINK_END, BOXED, BOXED_END)
CHARACTERS = "0123456789+=; ?ABCP"
VOCABULARY = (*CONTROL_TOKENS, *ANSWER_TOKENS, *CHARACTERS)  # a token's id is its index

QUESTION = "P?"  # of a triangle the perimeter, of any picture the sum of what it shows
N_IMAGE_TOKENS = 9  # of one 84 x 84 picture, after merging

_TOKEN = re.compile(
    "|".join(re.escape(token) for token in (*CONTROL_TOKENS, *ANSWER_TOKENS)) + "|."
)


def split_tokens(text: str) -> list[str]:
    """Cut a text into tokens, as the tokenizer does; unknown characters stand alone."""
    return _TOKEN.findall(text)
