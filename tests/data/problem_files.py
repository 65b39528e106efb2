"""Small datasets in the public schemas, and a Qwen-VL processor that reads any text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
    Qwen2VLVideoProcessor,
)

from areal_cppo.config.blocks import INSTRUCTION

VISION = "<|vision_start|><|image_pad|><|vision_end|>"
# What Qwen2.5-VL's template makes of one user message with images.
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + VISION + "{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
MIN_PIXELS, MAX_PIXELS = 3136, 1003520


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
        },
    )


def build_processor(
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
    image_processor_class=Qwen2VLImageProcessor,
    patch_size: int = 14,
) -> Qwen2_5_VLProcessor:
    settings = dict(
        patch_size=patch_size,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
    )
    return Qwen2_5_VLProcessor(
        image_processor=image_processor_class(**settings),
        tokenizer=byte_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=TEMPLATE,
    )


def picture(width: int = 70, height: int = 50, seed: int = 0) -> Image.Image:
    """Smooth colours, so that JPEG keeps them and resizing shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_images_table(file: Path, rows: list[dict], column: str = "images") -> None:
    """A parquet file as `datasets` writes one with images: hiyouga/geometry3k's kind.

    Each row's images are bytes of files; its column is a list of the feature `Image`,
    which parquet holds as structs `{bytes, path}`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {**row, column: [{"bytes": data, "path": None} for data in row[column]]}
        for row in rows
    ]
    features = {name: datasets.Value("string") for name in rows[0] if name != column}
    features = datasets.Features({column: datasets.List(datasets.Image()), **features})
    datasets.Dataset.from_list(rows, features=features).to_parquet(file)


def geometry3k(folder: Path, n: int = 6, split: str = "train") -> Path:
    """A copy of hiyouga/geometry3k with `n` rows in one split."""
    rows = [
        {
            "images": [encoded(picture(60 + i, 50, seed=i))],
            "problem": f"<image>Find $x_{i}$, if two different sides are equal.",
            "answer": str(i),
        }
        for i in range(n)
    ]
    write_images_table(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


def virl39k(folder: Path, rows: list[dict] | None = None, n: int = 6) -> Path:
    """A copy of TIGER-Lab/ViRL39K with the images unpacked."""
    for i in range(n):
        file = folder / "images" / f"Part{i % 2}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(60 + i, 50, seed=i), "JPEG"))
    rows = rows or [
        {
            "question": f"<image>\nHow long is side {i}?",
            "answer": f"\\boxed{{\\frac{{{i}}}{{2}}}}",
            "PassRate_32BTrained": i / 8,
            "PassRate_7BBase": None if i % 2 else i / 8,
            "category": "(GradeSchool) Geometric",
            "source": "made up",
            "qid": f"made-up-{i}",
            "image": [f"images/Part{i % 2}/{i}.jpg"],
        }
        for i in range(n)
    ]
    datasets.Dataset.from_list(rows).to_parquet(folder / "39Krelease.parquet")
    return folder


def jsonl(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def prompt(text: str) -> str:
    """The whole prompt around a question whose images are `VISION`."""
    return f"{HEAD}{text}\n{INSTRUCTION}{TAIL}"
