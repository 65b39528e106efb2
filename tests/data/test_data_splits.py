"""Slices of splits, from every kind of source; problems in two splits at once."""

from __future__ import annotations

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.data.tables import cut, split_names
from areal_cppo.errors import UserError
from tests.data.problem_files import encoded, jsonl, picture

N = 20


def rows(n: int = N, start: int = 0) -> list[dict]:
    return [
        {"problem": f"What is {i}?", "answer": str(i), "images": None}
        for i in range(start, start + n)
    ]


def table(n: int = N, start: int = 0) -> datasets.Dataset:
    features = datasets.Features({name: datasets.Value("string") for name in rows()[0]})
    return datasets.Dataset.from_list(rows(n, start), features=features)


def saved(folder):
    table().save_to_disk(folder / "saved")
    return folder / "saved"


def saved_from_a_slice(folder):
    table(N + 5).select(range(N)).save_to_disk(folder / "saved")
    return folder / "saved"


def saved_dict(folder):
    both = datasets.DatasetDict(train=table(), test=table(5, 50))
    both.save_to_disk(folder / "saved")
    return folder / "saved"


def parquet(folder):
    table().to_parquet(folder / "data" / "train-0.parquet")
    table(5, 50).to_parquet(folder / "data" / "test-0.parquet")
    return folder / "data"


def one_file(folder):
    return jsonl(folder / "a.jsonl", rows())


def json_folder(folder):
    jsonl(folder / "data" / "train.jsonl", rows())
    jsonl(folder / "data" / "test.jsonl", rows(5, 50))
    return folder / "data"


SLICES = {
    "train": range(20),
    "train[:80%]": range(16),
    "train[80%:]": range(16, 20),
    "train[:5]": range(5),
    "train[-3:]": range(17, 20),
    "train[:-10%]": range(18),
    "train[2:4]+train[10:11]": (2, 3, 10),
    "train[:500]": range(20),
}


def answers(dataset) -> list[str]:
    return [item["answer"] for item in dataset]


@pytest.mark.parametrize(
    "write", [saved, saved_from_a_slice, saved_dict, parquet, one_file, json_folder]
)
def test_slices(tmp_path, load, write):
    path = write(tmp_path)
    for split, expected in SLICES.items():
        found = answers(load(path, split, source="custom"))
        assert found == [str(i) for i in expected], split
    both = "train[18:]+test[:2]"
    if write in (saved_dict, parquet, json_folder):
        assert answers(load(path, both, source="custom")) == ["18", "19", "50", "51"]
        words = "split: expected one of .*train.*, found 'dev'"
        split = "train+dev"
    else:  # which split it is, nothing says
        assert len(load(path, "test", source="custom")) == N
        words, split = "expected one split, found train and test, of ", both
    with pytest.raises(UserError, match=words) as refused:
        load(path, split, source="custom")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "split",
    ["train[", "train[:12.5%]", "train[a:b]", "train[3]", "train[1:2:3]", "", "a b",
     "train[5:90%]", "train[5%:90]", "train+", "train[:50%](middle)"],
)  # fmt: skip
def test_slices_that_are_none(tmp_path, load, split):
    with pytest.raises(UserError, match="can read as split|no such") as refused:
        load(saved(tmp_path), split, source="custom")
    assert str(refused.value).startswith("train_dataset.split: expected")
    assert len(str(refused.value).splitlines()) == 1


def test_an_empty_slice(tmp_path, load):
    for split in ("train[5:5]", "train[9:2]", "train[50:]"):
        with pytest.raises(UserError, match="found none of 0 in .*no row at all"):
            load(saved(tmp_path), split, source="custom")


bound = st.none() | st.integers(-30, 30)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 25), st.lists(st.tuples(bound, bound), min_size=1, max_size=3))
def test_a_slice_of_rows_is_pythons(n, slices):
    words = [f"s[{'' if a is None else a}:{'' if b is None else b}]" for a, b in slices]
    spec = " + ".join(words)
    assert split_names(spec, "x") == ["s"]
    whole = datasets.Dataset.from_dict({"i": list(range(n))})
    expected = [i for a, b in slices for i in range(n)[a:b]]
    assert cut({"s": whole}, spec, "x")["i"][:] == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(0, 100))
def test_two_shares_are_the_whole(n, percent):
    whole = datasets.Dataset.from_dict({"i": list(range(n))})
    parts = [cut({"s": whole}, f"s[{part}]", "x")["i"][:] for part in
             (f":{percent}%", f"{percent}%:")]  # fmt: skip
    assert parts[0] + parts[1] == list(range(n))


def test_saved_data_that_is_damaged(tmp_path, load):
    path = saved(tmp_path)
    (path / "state.json").write_text("{")
    with pytest.raises(UserError, match="expected what `Dataset.save_to_disk` wrote"):
        load(path, source="custom")


def test_problems_that_two_datasets_share(tmp_path, load):
    """By what is asked about which pixels; not by id, answer, or form of the file."""
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    (tmp_path / "b.bmp").write_bytes(encoded(picture(), "BMP"))  # the same pixels
    (tmp_path / "c.png").write_bytes(encoded(picture(seed=1)))

    def dataset(name, *rows, **more):
        rows = [
            {"problem": problem, "answer": 1, "images": images}
            for problem, images in rows
        ]
        return load(jsonl(tmp_path / name, rows), source="custom", **more)

    train = dataset(
        "train.jsonl", ("<image>How long?", ["a.png"]), ("How wide?", ["c.png"]),
        ("1 + 1?", None), ("Which?", ["a.png", "c.png"]), ("?", ["gone.png"]),
    )  # fmt: skip
    other = dataset(
        "test.jsonl", ("How long?", ["c.png"]), ("How  long?\n", "b.bmp"),
        ("1 + 1?", []), ("Which?", ["c.png", "a.png"]), ("?", ["gone.png"]),
        ("How wide?", ["a.png"]), split="test",
    )  # fmt: skip
    assert other.shared_with(train) == "2 of 5 problems: row 1 (test-1), row 2 (test-2)"
    assert train.shared_with(other).startswith("2 of 4 problems: row 0 (train-0)")
    few = dataset("few.jsonl", ("How long?", ["c.png"]))
    assert few.shared_with(train) == ""
    assert train.shared_with(train).startswith("4 of 4 problems: ")
