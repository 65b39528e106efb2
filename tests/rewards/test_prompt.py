"""What a reward function is told of the prompt: all that the model sees before it."""

from __future__ import annotations

import pytest

from areal_cppo.config.blocks import INSTRUCTION
from areal_cppo.data.prompts import PromptBuilder
from areal_cppo.rewards.format import has_format
from areal_cppo.rollout.requests import Prompt
from tests.data.problem_files import TEMPLATE, build_processor, picture


@pytest.mark.parametrize("opening", ["", "<think>", "<think>\n"])
def test_it_shows_whether_the_template_opens_the_thought(opening):
    """The instruction, which is in it too, names the mark either way."""
    processor = build_processor()
    processor.chat_template = TEMPLATE.replace("assistant\n", "assistant\n" + opening)
    messages = PromptBuilder(processor, INSTRUCTION).text("How many?", 1)
    problem = {"messages": messages, "images": [picture()]}
    training = Prompt.of(problem, processor, processor.tokenizer, images=[]).text
    for prompt in (training, messages):  # `messages`: inspection's, images not expanded
        assert prompt.endswith("assistant\n" + opening) and "<think>" in prompt
        assert has_format(r"3+2</think>\boxed{5}", prompt) == bool(opening)
        assert has_format(r"<think>3+2</think>\boxed{5}", prompt) != bool(opening)
