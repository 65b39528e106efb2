"""From a row to a problem.

What columns mean say the public schemas, or a user's own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from datasets import Dataset

from areal_cppo.config.blocks import DataConfig
from areal_cppo.data.images import ImageSource, image_sources, in_line
from areal_cppo.data.sources import Rows, plain
from areal_cppo.errors import UserError
from areal_cppo.rewards.answers import final_answer

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
    fault
        Why it has no question or no answer: the reason (`check.REASONS`) and what was
        found; `None` where it has both.
    """

    query_id: str
    question: str
    answer: str
    images: list[ImageSource]
    fault: tuple[str, str] | None = None


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
    question, answer = (as_text(row[c]) for c in (schema.question, schema.answer))
    bare = bare_answer(answer or "")
    fault = None
    if not question or not question.strip():
        fault = "no_question", _described(row[schema.question], question)
    elif not bare:
        fault = "no_answer", _described(row[schema.answer], answer)
    images = image_sources(row[schema.images], folder)
    return Problem(name, question or "", bare, images, fault)


def _described(value: Any, text: str | None) -> str:
    """What is in the place of a text that is missing."""
    if value is None or text is not None:
        return "empty"
    kind = {list: "a list", dict: "an object"}.get(type(value), repr(value))
    return f"{in_line(kind)}, where text or a number was expected"


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


def as_text(value: Any) -> str | None:
    """A text as it is, a number or a truth value as text; `None` for anything else.

    A number with a point comes from JSON as it was written, as text. Of a column of
    floating-point numbers 5.0 is 5: nobody knows what was written.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, str | int | Decimal):
        return None
    halves = re.search("[\ud800-\udfff]", str(value))  # of characters, alone
    return None if halves else str(value)


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
        needed = [schema.question, schema.answer, schema.images, schema.id]
        columns = [name for name in dict.fromkeys(needed) if name]
        table = rows.table.select_columns(columns).with_format("arrow")
        ids = Counter(map(as_text, rows.values(schema.id))) if schema.id else {}
        repeated = frozenset(name for name, count in ids.items() if count > 1)
        return cls(rows, table, schema, split, repeated)

    def __len__(self) -> int:
        return len(self.table)

    def __call__(self, start: int, stop: int) -> list[Problem]:
        """Problems of the rows from `start` to `stop`; images are not decoded."""
        features = self.table.features
        problems = []
        for number, row in enumerate(self.table[start:stop].to_pylist(), start):
            values = {name: plain(row[name], features[name]) for name in row}
            name = self._name(values, number)
            problems.append(read_problem(values, self.schema, name, self.rows.folder))
        return problems

    def _name(self, row: dict[str, Any], number: int) -> str:
        own = as_text(row[self.schema.id]) if self.schema.id else None
        if not own:
            return f"{self.split}-{number}"
        return f"{own}-{number}" if own in self.repeated else own
