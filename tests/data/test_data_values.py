"""Every value of a table arrives as it was written, or is counted.

Not covered: Arrow's types that no data of this kind has (durations, maps, unions).
"""

from __future__ import annotations

import json
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from areal_cppo.config.blocks import ColumnsConfig
from areal_cppo.data import text_rows
from areal_cppo.errors import UserError
from tests.data.problem_files import encoded, jsonl, picture

COLUMNS = ColumnsConfig("problem", "answer", "images", "id")

# JSON as it is written, and the answer that it is; None: a bad row.
WRITTEN = {
    '"Yes"': "Yes",
    "7": "7",
    "7.50": "7.50",
    "5.0": "5.0",
    "1e3": "1e3",
    "-0.10": "-0.10",
    "12345678901234567890123": "12345678901234567890123",
    "9007199254740993": "9007199254740993",
    '"007"': "007",
    '"2020-01-01"': "2020-01-01",
    '"[1, 2]"': "[1, 2]",
    '"\\"quoted\\""': '"quoted"',
    '"null"': "null",
    "true": "True",
    "null": None,
    "NaN": None,
    "[1, 2]": None,
    '["a"]': None,
    '{"a": 1}': None,
    '"\\ud800"': None,
}


def lines(key: str = "answer", **more) -> list[str]:
    """A JSON object for each of `WRITTEN`, as text."""
    fixed = {"problem": "?", "answer": "1", "images": None, **more}
    fixed.pop(key, None)
    return [json.dumps(fixed)[:-1] + f', "{key}": {text}}}' for text in WRITTEN]


def as_lines(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("\n\n".join(rows))
    return tmp_path / "a.jsonl"


def as_array(tmp_path, rows):
    text = "[\n" + ",\n".join(rows) + "\n]"
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig")
    return tmp_path / "a.json"


def as_array_in_one_line(tmp_path, rows):
    (tmp_path / "a.json").write_text("[" + ",".join(rows) + "]")
    return tmp_path / "a.json"


def spread(tmp_path, rows):
    """Objects over several lines, one after the other."""
    (tmp_path / "a.json").write_text(
        " ".join(row.replace(', "', ',\n"') for row in rows)
    )
    return tmp_path / "a.json"


def as_folder(tmp_path, rows):
    """Files of which each has one type, and its own order of keys."""
    for at, row in enumerate(rows):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        (folder / f"train-{at:02d}.jsonl").write_text(row)
    return tmp_path


@pytest.mark.parametrize(
    "write", [as_lines, as_array, as_array_in_one_line, spread, as_folder]
)
def test_answers_of_mixed_types(tmp_path, load, write):
    dataset = load(write(tmp_path, lines()), source="custom")
    expected = list(WRITTEN.values())
    assert [item["answer"] for item in dataset] == [e for e in expected if e]
    bad = [row for row, answer in enumerate(expected) if answer is None]
    assert [row.row for row in dataset.bad] == bad
    assert dataset.counts == {"no_answer": len(bad)}
    assert (
        "train-16: a list, where text or a number was expected"
        in dataset.bad[2].query_id + ": " + dataset.bad[2].detail
    )


def test_questions_and_ids_of_mixed_types(tmp_path, load):
    named = load(
        as_lines(tmp_path, lines("id")), source="custom", columns=COLUMNS, split="t"
    )
    names = [item["query_id"] for item in named]
    assert names == [text or f"t-{row}" for row, text in enumerate(WRITTEN.values())]
    asked = load(as_lines(tmp_path, lines("problem")), source="custom", instruction="")
    shown = [item["messages"].split("user\n")[1].split("<|im_end")[0] for item in asked]
    assert shown == [text for text in WRITTEN.values() if text]
    assert asked.counts == {"no_question": 6}


def test_images_of_mixed_types(tmp_path, load):
    """A path, a list of them, a struct of one, and none, in one column."""
    for name in ("a.png", "7"):
        (tmp_path / name).write_bytes(encoded(picture()))
    images = ["a.png", ["a.png", "7"], {"path": "a.png"}, None, [{"path": "7"}], []]
    rows = [{"problem": "?", "answer": 1, "images": value} for value in images]
    dataset = load(jsonl(tmp_path / "a.jsonl", rows), source="custom")
    assert [len(item["images"]) for item in dataset] == [1, 2, 1, 0, 1, 0]


def test_pass_rates_of_mixed_types(tmp_path, load):
    rates = [0.5, "0.25", None, 1, 0, "none"]
    rows = [{"problem": "?", "answer": 1, "images": None, "r": r} for r in rates]
    file = jsonl(tmp_path / "a.jsonl", rows[:-1])
    dataset = load(file, source="custom", pass_rate_column="r", pass_rate_min=0.25)
    assert [item["query_id"][-1] for item in dataset] == ["0", "1", "3"]
    with pytest.raises(UserError, match="found 'none' in r of train_dataset"):
        load(jsonl(file, rows), source="custom", pass_rate_column="r")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=30,
)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), json_values, min_size=1), max_size=9
    ),
    st.integers(1, 60),
    st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, monkeypatch, rows, part, array):
    """Values of any kind, whatever the file's form and the size of the parts."""
    folder = tmp_path_factory.mktemp("rows")
    monkeypatch.setattr(text_rows, "_PART_BYTES", part)
    file = folder / "a.json"
    text = "\n".join(map(json.dumps, rows))
    file.write_text(json.dumps(rows, indent=1) if array else text)
    text_rows.write_rows([file], folder / "made")
    table = text_rows.read_rows(folder / "made").with_format("arrow")
    assert len(table) == len(rows)
    for number, row in enumerate(rows):
        for name in table.column_names:
            (text,) = table[number][name].to_pylist()
            assert (None if text is None else text_rows.loads(text)) == row.get(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected rows, found none in"),
        ("\n \n", "expected rows, found none in"),
        ("[]", "expected rows, found none in"),
        ('{"a": 1}\n{"a": \n', "line 2 of"),
        ('{"a": 1}\n\n[1]\n', "line 3 of .*: expected an object with keys, found 1"),
        ('"text"', "line 1 of .*expected an object"),
        ('{"a": 1}\n{}', "line 2 of .*expected an object"),
        ('[\n{"a": 1},\n{"a": }]', "line 3 of"),
        ('{"a": 1, "a": 2}', "two values of one key"),
        ('{"a": 1}\n{"b": {"a": 1, "a": 2}}', "line 2 of .*two values of one key"),
        ("[" * 100_000, "line 1 of .*recursion"),
        ('{"a": ' + "1" * 5000 + "}", "line 1 of .*limit"),
        (b'{"a": "\xff"}', "codec can't decode byte"),
        ('{"problem": "?"}', "found no answer, images among problem"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_json_that_cannot_be_read(tmp_path, load, text, words):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=words) as refused:
        load(tmp_path / "a.jsonl", source="custom")
    assert len(str(refused.value).splitlines()) == 1


def test_parquet_types(tmp_path, load):
    """The same answers, whatever the column's type."""
    columns = [
        ([7, None], ["7"], pa.int8()),
        ([7.0, 7.5, float("nan")], ["7", "7.5"], pa.float64()),
        ([Decimal("7.50"), None], ["7.50"], pa.decimal128(5, 2)),
        (["7", "Yes"], ["7", "Yes"], pa.large_string()),
        ([True, None], ["True"], pa.bool_()),
        ([b"7", None], [], pa.binary()),
        ([["7"], ["8"]], [], pa.list_(pa.string())),
        ([18000, None], [], pa.date32()),
    ]
    for at, (values, expected, kind) in enumerate(columns):
        folder = tmp_path / str(at)
        folder.mkdir()
        file = folder / "a.parquet"
        fixed = {"problem": ["?"] * len(values), "images": [None] * len(values)}
        answers = pa.array(values).cast(kind) if at != 7 else pa.array(values, kind)
        pq.write_table(pa.table({**fixed, "answer": answers}), file)
        try:
            dataset = load(file, source="custom")
        except UserError as error:
            assert expected == [] and "no_answer" in str(error)
        else:
            assert [item["answer"] for item in dataset] == expected
            assert dataset.counts["no_answer"] == len(values) - len(expected)


def test_columns_of_json_and_of_labels(tmp_path, load):
    """As `datasets` writes what it read from JSON, and classes."""
    features = datasets.Features(
        problem=datasets.Value("string"),
        answer=datasets.Json(),
        images=datasets.List(datasets.Json()),
        id=datasets.ClassLabel(names=["one", "two"]),
    )
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    images = [["a.png"], [{"path": "a.png"}]]
    rows = {"problem": ["?", "?"], "answer": [7, "Yes"], "images": images, "id": [1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    for name in ("a.parquet", "saved"):
        dataset = load(
            tmp_path / name,
            source="custom",
            columns=COLUMNS,
            image_folder=str(tmp_path),
        )
        found = [(i["answer"], i["query_id"], len(i["images"])) for i in dataset]
        assert found == [("7", "two", 1), ("Yes", "one", 1)]


def test_parquet_files_of_other_types(tmp_path, load):
    """`datasets` would make numbers of texts: 7 of 007."""
    for name, answer in (("a", [1, 2]), ("b", ["007", "8"])):
        rows = {"problem": ["?", "?"], "images": [None, None], "answer": answer}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match="expected answer to be text in all files or"):
        load(tmp_path, source="custom")
