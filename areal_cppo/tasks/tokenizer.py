"""A tokenizer of few tokens, and the stock Qwen2.5-VL processor around it.

The tokenizer knows single characters, and a few tags that are one token each. Its
vocabulary is `responses.VOCABULARY`, 29 tokens, or `responses.WITH_WORDS`, which begins
with it: a token's id is its index there. `encode` and `decode` do the same for many
responses at once, without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
)

from areal_cppo.tasks import responses
from areal_cppo.tasks.pixels import IMAGE_MEAN, IMAGE_STD, MERGE, PATCH, TEMPORAL
from areal_cppo.tasks.prompts import TaskPrompt
from areal_cppo.tasks.responses import VOCABULARY, WITH_WORDS

MODEL_MAX_LENGTH = 256  # tokens, prompt and response
IDS = {token: i for i, token in enumerate(WITH_WORDS)}
PAD_ID = IDS[responses.PAD]


def prompt_ids(prompt: TaskPrompt) -> tuple[int, ...]:
    """Token ids of a prompt, one for each image token."""
    tokens = (
        responses.VISION_START,
        *[responses.IMAGE] * prompt.n_image_tokens,
        responses.VISION_END,
        *prompt.question,
    )
    return tuple(IDS[token] for token in tokens)


PROMPT_IDS = prompt_ids(TaskPrompt())  # of most tasks, whose problems share it

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}"
    f"{responses.VISION_START}{responses.IMAGE}{responses.VISION_END}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(
    vocabulary: Sequence[str] = VOCABULARY,
) -> PreTrainedTokenizerFast:
    """The tokenizer of a vocabulary, exact both ways.

    Decoding puts nothing between tokens. Only `responses.CONTROL_TOKENS` are special:
    `<think>`, `</think>` and `\\boxed{` survive `skip_special_tokens=True`. A character
    outside the vocabulary is an error, as there is no token to stand for it.
    """
    core = Tokenizer(models.WordLevel({token: IDS[token] for token in vocabulary}))
    whole = [*responses.ANSWER_TOKENS, *responses.WORDS]
    tags = (
        tag.replace("\\", r"\\").replace("{", r"\{")
        for tag in whole
        if tag in vocabulary
    )
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join((*tags, r"[\s\S]"))), behavior="isolated"
    )
    core.decoder = decoders.Fuse()
    core.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in responses.CONTROL_TOKENS
        ]
    )
    return wrap(core, MODEL_MAX_LENGTH, CHAT_TEMPLATE)


def wrap(core: Tokenizer, max_length: int, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers takes it, with the special tokens of `responses`."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=responses.PAD,
        eos_token=responses.EOS,
        extra_special_tokens={
            "vision_start_token": responses.VISION_START,
            "vision_end_token": responses.VISION_END,
            "image_token": responses.IMAGE,
            "video_token": responses.VIDEO,
        },
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def build_processor(
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Qwen2_5_VLProcessor:
    """The stock processor, with the tasks' normalisation and a tokenizer, theirs if
    none is given.

    The mean is that of the light background: around the usual .5 the vision tower does
    not learn. Needs torchvision, for the stock video processor, which is never used
    here but always there.
    """
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
        Qwen2VLVideoProcessor,
    )

    settings = dict(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
        image_mean=[IMAGE_MEAN] * 3,
        image_std=[IMAGE_STD] * 3,
        size={
            "shortest_edge": (2 * PATCH * MERGE) ** 2,  # in pixels of area
            "longest_edge": (4 * PATCH * MERGE) ** 2,
        },
    )
    tokenizer = tokenizer or build_tokenizer()
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=tokenizer.chat_template,
    )


def encode(texts: Iterable[str]) -> torch.Tensor:
    """Response texts as token ids: int64 `[B, T]`, filled up with pad at the end."""
    rows = [[IDS[token] for token in responses.split_tokens(text)] for text in texts]
    width = max(len(row) for row in rows)
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows])


def decode(response_ids: torch.Tensor) -> list[list[str]]:
    """Token ids `[B, T]` as lists of token strings, without the pads after the end.

    Joined, a list is what the tokenizer decodes; `responses.token_roles` takes it as it
    is.
    """
    texts = []
    for row in response_ids.tolist():
        while row and row[-1] == PAD_ID:
            row.pop()
        texts.append([WITH_WORDS[i] for i in row])
    return texts
