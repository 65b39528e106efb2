"""What the columns of a dataset mean: the public schemas, and a user's own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal_cppo.config.data import DataConfig
from areal_cppo.errors import UserError
from areal_cppo.rewards.answers import final_answer

# An image as a table holds it: the bytes of a file, a file, or none.
ImageSource = bytes | Path | None

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


def read_problem(row: dict[str, Any], schema: Schema, name: str, folder: Path):
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
        images=read_images(row[schema.images], folder),
    )


def read_images(value: Any, folder: Path) -> list[ImageSource]:
    """The images of a row: none, one, or a list; bytes, paths, or structs of both.

    The struct `{bytes, path}` is how `datasets` stores its feature `Image`; without
    bytes its path counts.
    """
    if value is None:
        return []
    return [_image(item, folder) for item in _listed(value)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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
