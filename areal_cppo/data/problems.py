"""From a row to a problem, and from its question to the prompt's text.

What columns mean say the public schemas, or a user's own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from areal_cppo.config.blocks import DataConfig
from areal_cppo.data.images import ImageSource
from areal_cppo.data.sources import Rows
from areal_cppo.errors import UserError
from areal_cppo.rewards.answers import final_answer

PLACEHOLDER = "<image>"  # where in a question an image belongs
_TAGGED = re.compile(r"<answer>(.*)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Schema:
    """Names of the columns that a problem is made of."""

    question: str
    answer: str
    images: str
    id: str | None = None


# Of hiyouga/geometry3k, TIGER-Lab/ViRL39K and BUAADreamer/clevr_count_70k.
PUBLIC = {
    "geometry3k": Schema("problem", "answer", "images"),
    "virl39k": Schema("question", "answer", "image", "qid"),
    "clevr_count_70k": Schema("problem", "answer", "images"),
}


@dataclass(frozen=True)
class Problem:
    """A row of a dataset.

    Attributes
    ----------
    query_id
        The row's name.
    question
        As it is in the table, placeholders included; empty where there is none.
    answer
        The true answer without its wrapping (:func:`bare_answer`); empty for none.
    images
        One entry for each image that the row should have.
    """

    query_id: str
    question: str
    answer: str
    images: list[ImageSource]


def schema_of(config: DataConfig, columns: list[str], setting: str) -> Schema:
    """The schema that a configuration names, if the table has its columns.

    Raises
    ------
    UserError
        A column is missing.
    """
    if config.source == "custom":
        own = config.columns
        schema = Schema(own.question, own.answer, own.images, own.id)
    else:
        schema = PUBLIC[config.source]
    needed = [schema.question, schema.answer, schema.images]
    needed += [name for name in (schema.id, config.pass_rate_column) if name]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(
            f"{setting}.path: expected columns {', '.join(needed)} (data.source: "
            f"{config.source}), found no {', '.join(missing)} among "
            f"{', '.join(columns)}; name them in data.columns with data.source=custom"
        )
    return schema


def read_problem(
    row: dict[str, Any], schema: Schema, name: str, folder: Path
) -> Problem:
    """Make a `Problem` of a row.

    Parameters
    ----------
    row
        Plain values by column, as `pyarrow` gives them.
    name
        The row's.
    folder
        Where relative paths of images begin.
    """
    question = row[schema.question]
    return Problem(
        query_id=name,
        question=question if isinstance(question, str) else "",
        answer=bare_answer(_as_text(row[schema.answer])),
        images=_images(row[schema.images], folder),
    )


def _images(value: Any, folder: Path) -> list[ImageSource]:
    """The images of a row: none, one, or a list; bytes, paths, or structs of both.

    The struct `{bytes, path}` is how `datasets` stores its feature `Image`; without
    bytes its path counts.
    """
    if value is None:
        return []
    items = value if isinstance(value, list) else [value]
    return [_image(item, folder) for item in items]


def _image(value: Any, folder: Path) -> ImageSource:
    if isinstance(value, dict):
        inner = value.get("bytes")
        value = value.get("path") if inner is None else inner
    if isinstance(value, str) and value:
        return folder / value
    return value if isinstance(value, bytes) else None


def bare_answer(text: str) -> str:
    """An answer without `<answer>` tags and without the box around it.

    Of several boxes the last counts, as in a response. A box that holds nothing, or is
    never closed, is no answer.
    """
    text = text.strip()
    tagged = _TAGGED.fullmatch(text)
    if tagged:
        text = tagged[1].strip()
    return final_answer(text) or "" if "\\boxed" in text else text


def _as_text(value: Any) -> str:
    """A scalar as text, 5.0 as 5; anything else, and nothing, as the empty string."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else ""


@dataclass(frozen=True)
class Reader:
    """Makes problems of rows.

    Attributes
    ----------
    rows
        Where the problems are.
    table
        Their columns, as Arrow tables: bytes of images stay what they are.
    schema
        What the columns mean.
    split
        For the names of rows that have none of their own.
    repeated
        Ids that several rows have; these rows' numbers are added to them.
    """

    rows: Rows
    table: Dataset
    schema: Schema
    split: str
    repeated: frozenset[str]

    @classmethod
    def of(cls, rows: Rows, schema: Schema, split: str) -> Reader:
        """The reader of a table, once its ids are known."""
        needed = dict.fromkeys(
            (schema.question, schema.answer, schema.images, schema.id or schema.answer)
        )
        table = rows.table.select_columns(list(needed)).with_format("arrow")
        ids = Counter(map(str, rows.table[schema.id])) if schema.id else Counter()
        repeated = frozenset(name for name, count in ids.items() if count > 1)
        return cls(rows, table, schema, split, repeated)

    def __len__(self) -> int:
        return len(self.table)

    def __call__(self, start: int, stop: int) -> list[Problem]:
        """Problems of the rows from `start` to `stop`; images are not decoded."""
        return [
            read_problem(row, self.schema, self._name(row, number), self.rows.folder)
            for number, row in enumerate(self.table[start:stop].to_pylist(), start)
        ]

    def _name(self, row: dict[str, Any], number: int) -> str:
        own = row[self.schema.id] if self.schema.id else None
        if own is None:
            return f"{self.split}-{number}"
        return f"{own}-{number}" if str(own) in self.repeated else str(own)


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
