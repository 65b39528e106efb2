"""Columns of a user's rows that the reward function is told: plain data, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from datasets import Dataset, Json

from areal_cppo.data.tables import plain
from areal_cppo.errors import UserError

_BYTES = re.compile(r"binary(?!:)|extension<(?!arrow\.json)")  # types, not names


@dataclass(frozen=True)
class OwnColumns:
    """Some columns of a table, by row.

    A number of a JSON file is a number; of other types that JSON hasn't, dates and
    decimals become texts, time spans seconds.
    """

    table: Dataset

    @classmethod
    def of(cls, table: Dataset, names: Sequence[str], setting: str) -> OwnColumns:
        """The columns `names` of a table.

        Raises
        ------
        UserError
            It hasn't got them, or they hold bytes.
        """
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise UserError(
                f"reward.sees: expected answer, question, query_id, or columns of "
                f"{setting}, found {', '.join(missing)}; its columns are "
                f"{', '.join(table.column_names)}"
            )
        chosen = table.select_columns(list(names)).with_format("arrow")
        for name in names:
            kind = str(chosen.features.arrow_schema.field(name).type)
            if _BYTES.search(kind):
                raise UserError(
                    f"reward.sees: expected columns of texts, numbers and lists of "
                    f"such, found {name}, {kind}; leave it out"
                )
        return cls(chosen)

    def __call__(self, row: int) -> dict[str, Any]:
        """The values of a row."""
        if not self.table.column_names:
            return {}
        (values,) = self.table[row : row + 1].to_pylist()
        return {
            name: _told(value, self.table.features[name])
            for name, value in values.items()
        }


def _told(value: Any, feature: Any) -> Any:
    if isinstance(feature, Json):  # `plain` has its numbers as they were written
        return None if value is None else json.loads(value)
    return _jsonable(plain(value, feature))


def _jsonable(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _jsonable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_jsonable(inner) for inner in value]
        case date() | time():  # and date with a time
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
    return value
