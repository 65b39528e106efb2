"""The order of problems, and what is remembered between starts."""

from __future__ import annotations

import io
import os
import random
import time

import datasets
import numpy as np
import pytest
import torch
from areal.api.cli_args import TrainDatasetConfig
from areal.utils.data import cycle_dataloader
from areal.utils.dataloader import create_dataloader

from areal_cppo.data import check
from tests.data.problem_files import (
    build_processor,
    encoded,
    geometry3k,
    picture,
    virl39k,
)


def ids(dataset) -> list[str]:
    return [item["query_id"] for item in dataset]


def epochs(dataset, n: int = 2) -> list[str]:
    """Names of the problems in the order in which AReaL's controller asks for them."""
    config = TrainDatasetConfig(path="x", type="rl", batch_size=4, shuffle=True)
    loader = create_dataloader(dataset, 0, 1, config)
    batches = cycle_dataloader(loader, n)
    return [item["query_id"] for batch in batches for item in batch]


def test_the_order_is_the_seeds(tmp_path, load):
    """Through AReaL's dataloader too, whose own seed is the same in every run."""
    geometry3k(tmp_path, n=12)

    def order(seed, shuffle=True):
        return load(tmp_path, source="geometry3k", seed=seed, shuffle=shuffle)

    in_table = [f"train-{i}" for i in range(12)]
    assert ids(order(1, shuffle=False)) == in_table
    assert sorted(ids(order(1))) == sorted(in_table) != ids(order(1))
    assert ids(order(1)) == ids(order(1)) != ids(order(2))
    first = epochs(order(1))
    assert first == epochs(order(1)) != epochs(order(2))
    assert sorted(first[:12]) == sorted(first[12:]) == sorted(in_table)
    assert first[:12] != first[12:]


def test_no_other_randomness_comes_in(tmp_path, load):
    geometry3k(tmp_path, n=12)
    orders = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        orders.append(epochs(load(tmp_path, source="geometry3k", shuffle=True)))
    assert orders[0] == orders[1]


def test_a_limit_draws_by_the_seed(tmp_path, load):
    """Of usable rows; the same ones whether or not they are shuffled afterwards."""
    virl39k(tmp_path, n=12)
    (tmp_path / "images" / "Part0" / "4.jpg").unlink()

    def drawn(seed=1, **settings):
        return ids(load(tmp_path, source="virl39k", seed=seed, **settings))

    five = drawn(limit=5, shuffle=True)
    assert len(five) == 5 and "made-up-4" not in drawn(limit=11)
    assert five == drawn(shuffle=True)[:5]
    assert set(drawn(limit=5)) == set(five) != set(drawn(seed=2, limit=5))
    assert drawn(limit=5) == [name for name in drawn() if name in five]
    assert len(drawn(limit=500)) == 11


@pytest.fixture
def looks(monkeypatch):
    """How often the rows were really looked at."""
    counted = []
    look = check._look
    monkeypatch.setattr(
        check, "_look", lambda *args: (counted.append(1), look(*args))[1]
    )
    return counted


def test_a_second_start_does_not_look_again(tmp_path, load, looks):
    virl39k(tmp_path)
    (tmp_path / "images" / "Part0" / "4.jpg").unlink()
    first, second = (load(tmp_path, source="virl39k", seed=seed) for seed in (1, 2))
    assert len(looks) == 1
    assert first.counts == second.counts and first.notes == second.notes
    assert first.bad == second.bad


def set_back(file, data: bytes) -> None:
    """Write a file of the same length and with the time of the one before."""
    before = file.stat()
    assert len(data) == before.st_size
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_file_is_looked_at_again(tmp_path, load, looks):
    """Images that appear, go, or break; even with length and time kept."""
    virl39k(tmp_path)
    file = tmp_path / "images" / "Part1" / "3.jpg"
    whole = file.read_bytes()
    for change, counts in (
        (lambda: None, {}),
        (file.unlink, {"missing_image": 1}),
        (lambda: file.write_bytes(whole), {}),
        (lambda: set_back(file, bytes(len(whole))), {"broken_image": 1}),
    ):
        change()
        assert load(tmp_path, source="virl39k").counts == counts
    assert len(looks) == 4


def test_images_in_structs_of_paths_count_too(tmp_path, load, looks):
    """The feature `Image` without its bytes: what `datasets` writes for a path."""
    file = tmp_path / "a.png"
    file.write_bytes(encoded(picture()))
    images = [{"bytes": None, "path": "a.png"}]
    row = {"problem": "?", "answer": "1", "images": images}
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "a.parquet")
    assert len(load(tmp_path, source="geometry3k")) == 1
    file.write_bytes(encoded(picture(seed=5)))
    assert len(load(tmp_path, source="geometry3k")) == 1
    assert len(looks) == 2


def test_a_changed_table_is_read_and_looked_at_again(tmp_path, load, looks):
    geometry3k(tmp_path, n=3)
    assert len(load(tmp_path, source="geometry3k")) == 3
    time.sleep(0.01)  # longer than a tick of the file system's clock
    geometry3k(tmp_path, n=4)
    assert len(load(tmp_path, source="geometry3k")) == 4
    assert len(looks) == 2


def other_tokenizer():
    processor = build_processor()
    processor.tokenizer.add_tokens(["Find"])
    return processor


def other_template():
    processor = build_processor()
    processor.chat_template = processor.chat_template.replace("helpful", "terse")
    return processor


@pytest.mark.parametrize(
    "settings",
    [
        {"max_prompt_tokens": 1000},
        {"max_pixels": 50_000},
        {"min_pixels": 10_000},
        {"instruction": "Think."},
        {"processor": build_processor(patch_size=16)},
        {"processor": build_processor(max_pixels=50_000)},
        {"processor": other_tokenizer()},
        {"processor": other_template()},
        {"image_folder": "."},
        {"split": "train[:3]"},
    ],
    ids=lambda settings: str(settings)[:30],
)
def test_a_changed_setting_means_looking_again(tmp_path, load, looks, settings):
    geometry3k(tmp_path, n=6)
    load(tmp_path, source="geometry3k", processor=build_processor())
    load(tmp_path, source="geometry3k", **settings)
    assert len(looks) == 2


def test_the_key_does_not_depend_on_the_object(tmp_path, load, looks):
    geometry3k(tmp_path)
    for _ in range(2):
        load(tmp_path, source="geometry3k", processor=build_processor())
    assert len(looks) == 1


def test_a_damaged_memory_is_made_again(tmp_path, load, looks, own_caches):
    geometry3k(tmp_path)
    load(tmp_path, source="geometry3k")
    (kept,) = (own_caches / "areal_cppo").glob("check-*.json")
    kept.write_text(kept.read_text()[:20])
    assert len(load(tmp_path, source="geometry3k")) == 6
    load(tmp_path, source="geometry3k")
    assert len(looks) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(tmp_path, load, monkeypatch):
    """A bar on a terminal; elsewhere a note now and then."""
    geometry3k(tmp_path, n=6)
    monkeypatch.setattr(check, "_BATCH", 2)
    monkeypatch.setattr(check, "_NOTE_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    quiet = load(tmp_path, source="geometry3k").notes
    assert len(quiet) == 1
    assert "checking train_dataset: 100%" in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", plain := io.StringIO())
    notes = load(tmp_path, source="geometry3k", instruction="Think.").notes
    assert plain.getvalue() == ""
    assert notes[:3] == [
        f"checking train_dataset: {done} of 6 rows" for done in (2, 4, 6)
    ]
