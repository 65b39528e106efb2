"""A tokenizer of 29 tokens, and the stock Qwen2.5-VL processor around it.

The tokenizer knows single characters, and a few tags that are one token each. Its
vocabulary is `vocabulary.VOCABULARY`: a token's id is its index there.

Building a processor needs torchvision (for the stock video processor, which is never
used here but always there).
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
    Qwen2VLVideoProcessor,
)

from areal_cppo.tasks import vocabulary
from areal_cppo.tasks.pixels import IMAGE_MEAN, IMAGE_STD, MERGE, PATCH, TEMPORAL

MODEL_MAX_LENGTH = 256  # tokens, prompt and response

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}"
    f"{vocabulary.VISION_START}{vocabulary.IMAGE}{vocabulary.VISION_END}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: 29 tokens, exact both ways.

    Decoding puts nothing between tokens. Only `vocabulary.CONTROL_TOKENS` are special:
    `<think>`, `</think>` and `\\boxed{` survive `skip_special_tokens=True`. A character
    outside the vocabulary is an error, as there is no token to stand for it.
    """
    ids = {token: i for i, token in enumerate(vocabulary.VOCABULARY)}
    core = Tokenizer(models.WordLevel(ids))
    tags = (
        tag.replace("\\", r"\\").replace("{", r"\{") for tag in vocabulary.ANSWER_TOKENS
    )
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join((*tags, r"[\s\S]"))), behavior="isolated"
    )
    core.decoder = decoders.Fuse()
    core.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in vocabulary.CONTROL_TOKENS
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=vocabulary.PAD,
        eos_token=vocabulary.EOS,
        extra_special_tokens={
            "vision_start_token": vocabulary.VISION_START,
            "vision_end_token": vocabulary.VISION_END,
            "image_token": vocabulary.IMAGE,
            "video_token": vocabulary.VIDEO,
        },
        model_max_length=MODEL_MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor() -> Qwen2_5_VLProcessor:
    """The stock processor, with the tasks' normalisation and tokenizer.

    The mean is that of the light background: around the usual .5 the vision tower does
    not learn.
    """
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
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=CHAT_TEMPLATE,
    )
