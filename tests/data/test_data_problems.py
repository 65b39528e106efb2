"""From a row to an item, and rows that can't be used."""

from __future__ import annotations

import base64
import io
import pickle

import datasets
import pytest
from areal.utils.image import image2base64
from PIL import Image

from areal_cppo.config.blocks import DataConfig
from areal_cppo.data.check import REASONS
from areal_cppo.errors import RunError, UserError
from tests.data.problem_files import (
    VISION,
    build_processor,
    encoded,
    geometry3k,
    jsonl,
    picture,
    prompt,
    virl39k,
    write_images_table,
)


def test_clevr_count_70k(tmp_path, load):
    write_images_table(
        tmp_path / "data" / "train-00000-of-00001.parquet",
        [
            {
                "images": [encoded(picture(480, 320))],
                "problem": "<image>How many different items are there?",
                "answer": "<answer>5</answer>",
            }
        ],
    )
    item = load(tmp_path, source="clevr_count_70k")[0]
    assert item["answer"] == "5"
    assert item["images"][0].size == (476, 308)
    assert item["messages"] == prompt(f"{VISION}How many different items are there?")


def test_an_item_is_what_areals_workflow_takes(tmp_path, load, processor):
    """The processor expands each placeholder; AReaL's PNGs hold the same pixels."""
    virl39k(
        tmp_path,
        [
            {
                "question": "Is <image> or <image> taller? <image>",
                "answer": "\\boxed{1}",
                "qid": "q",
                "image": [f"images/Part{i % 2}/{i}.jpg" for i in range(3)],
            }
        ],
    )
    item = load(tmp_path, source="virl39k")[0]
    assert set(item) == {"images", "messages", "answer", "query_id"}
    batch = processor(
        images=item["images"],
        text=item["messages"],
        padding=False,
        return_tensors="pt",
    )
    image_tokens = (batch["input_ids"] == processor.image_token_id).sum()
    assert image_tokens == sum(w * h for w, h in [(2, 2)] * 3)
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]] * 3
    for sent, image in zip(image2base64(item["images"]), item["images"], strict=True):
        received = Image.open(io.BytesIO(base64.b64decode(sent)))
        assert received.tobytes() == image.tobytes() and received.mode == "RGB"
    assert pickle.loads(pickle.dumps(item))["answer"] == "1"


GOOD = encoded(picture(84, 56))
BAD = {  # a row's images, question and answer, and what is seen
    "no_question": ([GOOD], " ", "1", "empty"),
    "no_answer": ([GOOD], "<image>?", "\\boxed{ }", "empty"),
    "placeholder_count": ([GOOD], "<image><image>?", "1", "2 for 1 image(s)"),
    "missing_image": ([GOOD, None], "<image><image>?", "1", "no image"),
    "broken_image": ([GOOD[:200]], "<image>?", "1", "OSError"),
    "extreme_aspect_ratio": (
        [encoded(picture(2100, 10))],
        "<image>?",
        "1",
        "2100 x 10",
    ),
    "prompt_too_long": ([GOOD], "<image>" + "x" * 900, "1", "tokens"),
}
MORE = {  # other ways to the same reasons
    "missing_image": ([], "<image>?", "1", "no image for 1 placeholder(s)"),
    "placeholder_count": ([GOOD, GOOD], "<image>?", "1", "1 for 2 image(s)"),
    "prompt_too_long": ([encoded(picture(1200, 800))], "<image>?", "1", " tokens)"),
}


TOKENS = ("<|image_pad|>?", "<|video_pad|>?", "<image> <|image_pad|>?")


def write_bad(folder, images, question, answer):
    """A usable row, a bad one, and a usable one."""
    rows = [
        {"images": [GOOD], "problem": "<image>?", "answer": "1"},
        {"images": images, "problem": question, "answer": answer},
        {"images": [GOOD], "problem": "?", "answer": "2"},
    ]
    write_images_table(folder / "rows.parquet", rows)


def test_every_reason_is_in_the_table():
    """But for one that this tokenizer never gives: see test_data_prompts.py."""
    assert tuple(BAD) == tuple(name for name in REASONS if name != "unknown_text")


@pytest.mark.parametrize(
    ("reason", "row"), [*BAD.items(), *MORE.items()], ids=lambda value: str(value)[:20]
)
def test_a_bad_row_is_skipped_and_named_or_refused(tmp_path, load, reason, row):
    images, question, answer, detail = row
    write_bad(tmp_path, images, question, answer)
    settings = {"source": "geometry3k", "max_prompt_tokens": 1000}
    dataset = load(tmp_path, **settings)
    assert [item["query_id"] for item in dataset] == ["train-0", "train-2"]
    assert dataset.counts == {reason: 1}
    (note,) = dataset.notes
    assert note.startswith("train_dataset: 2 of 3 rows of ")
    assert f"left out: {reason} 1 (train-1: " in note and detail in note
    assert dataset.bad[0].query_id == "train-1"

    with pytest.raises(UserError) as refused:
        load(tmp_path, bad_rows="refuse", **settings)
    line = str(refused.value)
    assert "found 1 of 3 in" in line and f"{reason} 1 (train-1: " in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("question", TOKENS)
def test_a_question_that_spells_out_the_models_own_tokens(tmp_path, load, question):
    write_bad(tmp_path, [GOOD], question, "1")
    dataset = load(tmp_path, source="geometry3k")
    assert dataset.counts == {"placeholder_count": 1}
    assert dataset.bad[0].detail == "the question holds one of the model's tokens"


def test_a_good_table_is_not_refused(tmp_path, load):
    geometry3k(tmp_path)
    assert len(load(tmp_path, source="geometry3k", bad_rows="refuse")) == 6


def test_missing_and_broken_files(tmp_path, load):
    """Several of a kind: all are counted, three of them named."""
    virl39k(tmp_path, n=10)
    for i in range(0, 10, 2):
        (tmp_path / "images" / "Part0" / f"{i}.jpg").unlink()
    broken = tmp_path / "images" / "Part1" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    dataset = load(tmp_path, source="virl39k")
    assert dataset.counts == {"missing_image": 5, "broken_image": 1}
    assert len(dataset) == 4
    (note,) = dataset.notes
    assert "missing_image 5 (made-up-0: " in note
    assert "made-up-4: " in note and "made-up-6: " not in note
    assert "broken_image 1 (made-up-3: " in note
    for item in dataset:
        assert item["images"][0].size == (56, 56)


def test_no_usable_row(tmp_path, load):
    write_bad(tmp_path, [], "<image>?", "1")
    with pytest.raises(UserError, match="none of 3 in .*: missing_image 1 .*prompt_"):
        load(tmp_path, source="geometry3k", max_prompt_tokens=10)


def test_an_image_lost_later(tmp_path, load):
    virl39k(tmp_path)
    dataset = load(tmp_path, source="virl39k")
    (tmp_path / "images" / "Part1" / "1.jpg").unlink()
    dataset[0]
    with pytest.raises(RunError, match="problem made-up-1 could be read when"):
        dataset[1]


def test_text_only_problems_are_used_and_counted(tmp_path, load):
    file = jsonl(
        tmp_path / "a.jsonl",
        [
            {"problem": "<image>x", "answer": 1, "images": ["a.png"]},
            {"problem": "1 + 1?", "answer": 2, "images": []},
            {"problem": "1 + 2?", "answer": 3, "images": None},
        ],
    )
    (tmp_path / "a.png").write_bytes(GOOD)
    dataset = load(file, source="custom")
    assert [len(item["images"]) for item in dataset] == [1, 0, 0]
    assert dataset[1]["messages"] == prompt("1 + 1?")
    assert "; 2 used without an image" in dataset.notes[0]


def test_the_longest_prompt_that_is_allowed(tmp_path, load, processor):
    """The length is what the processor will make of it, to the token."""
    write_images_table(
        tmp_path / "rows.parquet",
        [
            {
                "images": [encoded(picture(300, 211)), encoded(picture(64, 640))],
                "problem": "<image> <image>?",
                "answer": "1",
            }
        ],
    )
    item = load(tmp_path, source="geometry3k")[0]
    ids = processor(images=item["images"], text=item["messages"])["input_ids"][0]
    limit = len(ids)
    assert len(load(tmp_path, source="geometry3k", max_prompt_tokens=limit)) == 1
    with pytest.raises(UserError, match=f"prompt_too_long 1 .train-0: {limit} tokens"):
        load(tmp_path, source="geometry3k", max_prompt_tokens=limit - 1)


def test_ids_that_repeat_get_the_rows_number(tmp_path, load):
    virl39k(tmp_path)
    table = datasets.load_dataset("parquet", data_files=str(tmp_path / "*.parquet"))
    rows = [
        {**row, "qid": "same" if i < 2 else None}
        for i, row in enumerate(table["train"])
    ]
    virl39k(tmp_path, rows)
    ids = [item["query_id"] for item in load(tmp_path, source="virl39k")]
    assert ids == ["same-0", "same-1", *(f"train-{i}" for i in range(2, 6))]


def test_filter_by_pass_rate(tmp_path, load):
    """Inclusive; rows that were never rated are left out; a filter is no bad row."""
    virl39k(tmp_path, n=9)

    def ids(**settings):
        dataset = load(tmp_path, source="virl39k", bad_rows="refuse", **settings)
        return [item["query_id"][-1] for item in dataset], dataset

    found, dataset = ids(
        pass_rate_column="PassRate_32BTrained", pass_rate_min=0.25, pass_rate_max=0.75
    )
    assert found == ["2", "3", "4", "5", "6"]
    assert dataset.counts == {"pass_rate": 4}
    assert "left out: pass_rate 4" in dataset.notes[0]
    found, dataset = ids(pass_rate_column="PassRate_7BBase")
    assert found == ["0", "2", "4", "6", "8"]
    (tmp_path / "images" / "Part1" / "1.jpg").unlink()  # of a row that is left out
    assert ids(pass_rate_column="PassRate_7BBase")[0] == found
    with pytest.raises(UserError, match="expected numbers in .0, 1., found"):
        ids(pass_rate_column="source")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_pixels": 10_000}, "data.max_pixels: expected at least 4 times"),
        (
            {"pass_rate_column": "a", "pass_rate_min": 0.6, "pass_rate_max": 0.5},
            "least",
        ),
        ({"pass_rate_max": 0.5}, "data.pass_rate_column: expected a column"),
        ({"source": "geometry"}, "data.source: expected one of"),
        ({"limit": 0}, "data.limit"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words) as refused:
        DataConfig(**settings)
    assert len(str(refused.value).splitlines()) == 1


def test_a_processor_with_narrower_limits(tmp_path, load):
    """Lengths are counted at the size at which the model sees the picture."""
    write_images_table(
        tmp_path / "rows.parquet",
        [{"images": [encoded(picture(900, 900))], "problem": "?", "answer": "1"}],
    )
    small = build_processor(3136, 12544)
    item = load(tmp_path, processor=small, source="geometry3k")[0]
    assert item["images"][0].size == (112, 112)
