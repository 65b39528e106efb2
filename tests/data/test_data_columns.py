"""Columns of a user's own rows, as the reward function is told them."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.data.columns import OwnColumns
from areal_cppo.data.text_rows import read_rows, write_rows
from areal_cppo.errors import UserError
from tests.data.problem_files import encoded, jsonl, picture

ROW = {"problem": "How long?", "answer": "5", "images": None}


def test_an_item_holds_what_the_reward_sees(load, tmp_path):
    """A number of a JSON file is one, whatever else its column holds."""
    own = [{"tolerance": 0.5, "units": ["cm", "m"], "a b": {"c": None}}]
    own += [{"tolerance": "half", "units": 7, "a b": True}, {}]
    rows = [{**ROW, "problem": f"{i}?", **more} for i, more in enumerate(own)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    sees = ["answer", "question", "tolerance", "units", "a b"]
    items = list(load(path, source="custom", sees=sees))
    told = {"messages", "images", "query_id"}
    assert [{k: v for k, v in item.items() if k not in told} for item in items] == [
        {"answer": "5", "question": f"{i}?"}
        | {name: more.get(name) for name in sees[2:]}
        for i, more in enumerate(own)
    ]
    assert set(load(path, source="custom")[0]) == told | {"answer"}


def test_types_that_json_has_not(load, tmp_path):
    own = {
        "day": date(2026, 11, 27),
        "at": datetime(2026, 11, 27, 1, 2),
        "span": timedelta(seconds=1.5),
        "price": Decimal("7.50"),
        "share": 0.5,
        "deep": [{"when": date(2026, 1, 1)}],
    }
    rows = datasets.Dataset.from_list([{**ROW, "images": "", **own}] * 2)
    label = datasets.ClassLabel(names=["no", "yes"])
    rows = rows.add_column("label", [1, 0]).cast_column("label", label)
    told = OwnColumns.of(rows, [*own, "label"], "train_dataset")(0)
    assert json.loads(json.dumps(told)) == {
        "day": "2026-11-27",
        "at": "2026-11-27T01:02:00",
        "span": 1.5,
        "price": "7.50",
        "share": 0.5,
        "deep": [{"when": "2026-01-01"}],
        "label": "yes",
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["unit"], "columns of train_dataset, found unit; its columns are problem, "),
        (["pictures"], "found pictures, .*binary.*; leave it out"),
        (["raw"], "found raw, binary; leave it out"),
    ],
)
def test_columns_that_can_not_be_told(names, words):
    row = {**ROW, "raw": b"1", "binary": "text", "pictures": [encoded(picture())]}
    features = {name: datasets.Value("string") for name in ("problem", "binary")}
    features["raw"] = datasets.Value("binary")
    features["pictures"] = datasets.List(datasets.Image())
    rows = [{name: row[name] for name in features}]
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    with pytest.raises(UserError, match=words) as error:
        OwnColumns.of(table, names, "train_dataset")
    assert len(str(error.value).splitlines()) == 1
    assert OwnColumns.of(table, ["binary"], "train_dataset")(0) == {"binary": "text"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=3)
    # Written and read again it is what it was.
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_any_json_arrives_as_it_was(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"n": i, "own": value} for i, value in enumerate(values)]
    write_rows([jsonl(folder / "rows.jsonl", rows)], folder / "arrow")
    if all(value is None for value in values):
        return  # a column of nothing
    told = OwnColumns.of(read_rows(folder / "arrow"), ["own"], "train_dataset")
    assert [told(row)["own"] for row in range(len(values))] == values
