"""Where problems come from: files, folders, globs, what `datasets` saved, the hub.

Not covered: a download; there is no hub here. A snapshot in the hub's cache stands for
one.
"""

from __future__ import annotations

import zipfile

import datasets
import huggingface_hub.constants
import pytest

from areal_cppo.config.blocks import ColumnsConfig
from areal_cppo.errors import UserError
from tests.data.problem_files import (
    encoded,
    geometry3k,
    jsonl,
    picture,
    virl39k,
    write_images_table,
)


def answers(dataset) -> list[str]:
    return [item["answer"] for item in dataset]


def row(i: int, **more) -> dict:
    return {"problem": f"<image>What is {i}?", "answer": str(i), **more}


@pytest.fixture
def pictures(tmp_path):
    """A folder with images in a subfolder."""
    for i in range(4):
        file = tmp_path / "own" / "figures" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(60 + 30 * i, 60, seed=i)))
    return tmp_path / "own"


def test_geometry3k_folder_by_split(tmp_path, load):
    folder = geometry3k(tmp_path / "geo", n=5)
    geometry3k(tmp_path / "geo", n=2, split="validation")
    (folder / "README.md").write_text("# train on this\n")
    (folder / ".cache").mkdir()  # `hf download --local-dir` leaves one
    (folder / ".cache" / "train.parquet").write_bytes(b"nothing")
    dataset = load(folder, source="geometry3k")
    assert answers(dataset) == ["0", "1", "2", "3", "4"]
    assert dataset[3]["query_id"] == "train-3"
    for split in ("validation", "val"):
        assert len(load(folder, split, source="geometry3k")) == 2
    assert answers(load(folder, "train[1:3]", source="geometry3k")) == ["1", "2"]
    with pytest.raises(UserError, match="one of train, validation, found 'test'"):
        load(folder, "test", source="geometry3k")


def test_shards_are_read_in_order(tmp_path, load):
    for shard in range(3):
        write_images_table(
            tmp_path / f"train-{shard:05d}-of-00003.parquet",
            [{"images": [encoded(picture())], **row(10 * shard + i)} for i in (0, 1)],
        )
    expected = ["0", "1", "10", "11", "20", "21"]
    assert answers(load(tmp_path, source="geometry3k")) == expected
    assert answers(load(tmp_path / "*.parquet", source="geometry3k")) == expected
    one = tmp_path / "train-00001-of-00003.parquet"
    assert answers(load(one, "test", source="geometry3k")) == ["10", "11"]


def test_jsonl_with_paths_beside_it(pictures, load):
    """One image, or several; relative to the file."""
    file = jsonl(
        pictures / "all.jsonl",
        [row(i, images=[f"figures/{i}.png"]) for i in range(3)]
        + [row(9, images=["figures/0.png", "figures/3.png"])],
    )
    for path in (file, pictures):
        dataset = load(path, source="custom")
        assert [len(item["images"]) for item in dataset] == [1, 1, 1]
        assert dataset.counts == {"placeholder_count": 1}


def test_own_columns_and_an_image_folder(tmp_path, pictures, load):
    file = jsonl(
        tmp_path / "elsewhere" / "test.jsonl",
        [
            {"q": f"Which is {i}?", "truth": value, "file": f"{i}.png", "name": f"n{i}"}
            for i, value in enumerate([5, 7])
        ],
    )
    columns = ColumnsConfig("q", "truth", "file", "name")
    config = {"columns": columns, "source": "custom"}
    dataset = load(file, image_folder=str(pictures / "figures"), **config)
    assert answers(dataset) == ["5", "7"]
    assert [item["query_id"] for item in dataset] == ["n0", "n1"]
    assert dataset[1]["images"][0].size == (84, 56)
    with pytest.raises(UserError, match="data.image_folder: expected a folder"):
        load(file, image_folder=str(tmp_path / "nowhere"), **config)


def test_virl39k_folder_and_file(tmp_path, load):
    folder = virl39k(tmp_path / "virl")
    for path in (folder, folder / "39Krelease.parquet"):
        dataset = load(path, source="virl39k")
        assert len(dataset) == 6
        item = dataset[2]
        assert item["answer"] == "\\frac{2}{2}"
        assert item["query_id"] == "made-up-2"
        assert item["images"][0].size == (56, 56)


def test_virl39k_with_images_still_packed(tmp_path, load, own_caches):
    """As the hub has them. Unpacked into the cache, once for each state of the file."""
    folder = virl39k(tmp_path / "virl")
    pack(folder)
    assert len(load(folder, source="virl39k")) == 6
    assert not (folder / "images").exists()
    (unpacked,) = (own_caches / "areal_cppo").glob("images-*")
    (unpacked / "images" / "Part0" / "0.jpg").unlink()  # a trace of this unpacking
    assert load(folder, source="virl39k").counts == {"missing_image": 1}
    virl39k(tmp_path / "virl")
    pack(folder)
    assert load(folder, source="virl39k").counts == {}
    (folder / "images.zip").write_bytes(b"half a file")
    with pytest.raises(UserError, match="expected a zip archive of images"):
        load(folder, source="virl39k")


def pack(folder):
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for file in sorted((folder / "images").rglob("*.jpg")):
            archive.write(file, file.relative_to(folder))
            file.unlink()
    for part in (*folder.glob("images/*"), folder / "images"):
        part.rmdir()


def test_what_datasets_saved(tmp_path, load):
    geometry3k(tmp_path / "geo", n=3)
    table = datasets.load_dataset(str(tmp_path / "geo"), split="train")
    table.save_to_disk(tmp_path / "one")
    assert answers(load(tmp_path / "one", source="geometry3k")) == ["0", "1", "2"]
    table.select([2, 0]).save_to_disk(tmp_path / "picked")
    assert answers(load(tmp_path / "picked", source="geometry3k")) == ["2", "0"]
    datasets.DatasetDict(test=table).save_to_disk(tmp_path / "many")
    assert len(load(tmp_path / "many", "test", source="geometry3k")) == 3
    with pytest.raises(UserError, match="expected one of test, found 'train'"):
        load(tmp_path / "many", source="geometry3k")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache that may be filled, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def snapshot(name: str):
        folder = tmp_path / f"datasets--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("a" * 40)
        return folder / "snapshots" / ("a" * 40)

    return snapshot


def test_the_split_of_a_file_is_not_told(tmp_path, load):
    """It has one, whatever it is; folders and datasets have several, dots or not."""
    picture().save(tmp_path / "a.png")
    rows = [row(1, images=str(tmp_path / "a.png"))]
    file = jsonl(tmp_path / "mine.v2.jsonl", rows)
    told = [load(file, source="custom"), load(file, "train[:1]", source="custom")]
    folder = tmp_path / "mine.v2"
    folder.mkdir()
    told.append(load(jsonl(folder / "a.jsonl", rows).parent, source="custom"))
    assert [each.notes[-1].partition(" rows of ")[2] for each in told] == [
        *(f"{file}", f"{file} (train[:1])", f"{folder} (train)")
    ]


def test_a_snapshot_in_the_hubs_cache(hub, load):
    geometry3k(hub("hiyouga/geometry3k"), n=3)
    virl = virl39k(hub("TIGER-Lab/ViRL39K"))
    pack(virl)
    dataset = load("hiyouga/geometry3k", source="geometry3k")
    assert len(dataset) == 3
    assert dataset.notes == [
        "train_dataset: looking for hiyouga/geometry3k on the hub and in its cache",
        "train_dataset: 3 of 3 rows of hiyouga/geometry3k (train)",
    ]
    assert len(load("TIGER-Lab/ViRL39K", source="virl39k")) == 6


def test_nothing_there(hub, tmp_path, load):
    expected = "train_dataset.path: expected "
    for path, words in (
        (tmp_path / "no" / "such" / "folder", "found nothing at"),
        ("/data/*.parquet", "found nothing at"),
        ("nobody/nothing", "none named nobody/nothing"),
        (tmp_path, "found none in"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            load(path, source="geometry3k")
        assert str(refused.value).startswith(expected)
        assert len(str(refused.value).splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path, load):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    jsonl(tmp_path / "b.jsonl", [row(0, images=[])])
    (tmp_path / "c.jsonl").write_text('{"problem": "cut\n')
    (tmp_path / "d.xlsx").write_text("problem,answer\n")
    (tmp_path / "e.csv").write_text("problem,answer\nHow many?,1,2\n")
    for name, words in (
        ("a.parquet", "that `datasets` can read"),
        ("c.jsonl", "that `datasets` can read"),
        ("d.xlsx", "either parquet files .* or JSON lines and CSV"),
        ("e.csv", "line 2 of .*: 2 columns, 3 values"),
        ("[ab].*", "either parquet files"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            load(tmp_path / name, source="custom")
        assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(UserError, match="can read as split 'train.5:7.x'"):
        load(tmp_path / "b.jsonl", "train[5:7]x", source="custom")


def test_csv_values_are_text_as_written(tmp_path, load):
    (tmp_path / "a.png").write_bytes(encoded(picture(60, 60, seed=0)))
    (tmp_path / "d.csv").write_text(
        'query,gold,picture\n"How long, <image>?",7.50,a.png\nNo picture,007,\n'
    )
    columns = ColumnsConfig("query", "gold", "picture")
    data = load(tmp_path / "d.csv", source="custom", columns=columns)
    assert answers(data) == ["7.50", "007"]
    assert [len(item["images"]) for item in data] == [1, 0]


def test_other_columns_are_named(tmp_path, load):
    folder = virl39k(tmp_path / "virl")
    with pytest.raises(UserError) as refused:
        load(folder, source="geometry3k")
    assert "found no problem, images among question, answer, PassRate" in str(
        refused.value
    )
    with pytest.raises(UserError, match="found no PassRate among"):
        load(folder, source="virl39k", pass_rate_column="PassRate", pass_rate_max=0.5)
