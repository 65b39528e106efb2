"""A step's samples: gathered, bounded, taken back, and handed to wandb.

What ranks and workers write is made up here; that they write it is in
step/test_samples.py and rollout/test_workflow.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
from areal.utils.hf_utils import load_hf_tokenizer

from areal_cppo.config.blocks import SamplesConfig
from areal_cppo.folder import RunFolder
from areal_cppo.report.step_samples import read_step_samples
from areal_cppo.run.samples import SampleObserver
from areal_cppo.tasks.problems import TRIANGLES


@pytest.fixture(scope="module")
def tokenizer():
    return load_hf_tokenizer(str(TRIANGLES.checkpoint))


LAST = 100


class Trainer:
    """Whose ranks and workers write what a test says."""

    def __init__(self, tokenizer, wandb="disabled", writer=None):
        self.tokenizer, self.told = tokenizer, []
        self.actor = SimpleNamespace(
            _custom_function_call=lambda *args: self.told.append(args)
        )
        mode = SimpleNamespace(wandb=SimpleNamespace(mode=wandb))
        self.stats_logger = SimpleNamespace(
            config=mode, summary_writer=writer, _last_commit_step=0
        )


@pytest.fixture
def make(tmp_path, tokenizer):
    def start(every=1, megabytes=64.0, **trainer) -> SampleObserver:
        folder = RunFolder(tmp_path).create()
        config = SamplesConfig(every=every, megabytes=megabytes)
        return SampleObserver(Trainer(tokenizer, **trainer), config, folder, LAST)

    return start


def picture(seed: int, side: int = 84) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = (side, side, 3)
    return [torch.randint(256, size, generator=generator, dtype=torch.uint8)]


def response(problem=0, tokens=True, **more) -> dict:
    n = 3
    columns = {
        "gain": [0.123456, None, 0.5],
        "selected": [False, None, True],
        "anchor_entropy": [0.1, None, 0.2],
        "negative_entropy": [0.3, None, 0.4],
    }
    return {
        "query_id": f"problem-{problem}",
        "answer": "15",
        "parts": {"answer": 1.0, "format": 0.0},
        "prompt": [6, 7],
        "ids": [9, 10, 1][:n],
        "reward": 0.9,
        "advantage": 1.25,
        "versions": [(3, 2), (4, 1)],
        "staleness": 1,
        "images": 1,
        "pictures": {"anchor": picture(problem)},
        "tokens": columns if tokens else {},
    } | more


def refused(name: str, reason="vision_token") -> dict:
    keys = ("query_id", "answer", "parts", "prompt", "ids", "images", "pictures")
    return {key: response()[key] for key in keys} | {"reason": reason, "query_id": name}


def pend(observer, step=None, rank=0, *records):
    """As a rank (or, without a step, as rollout workers) writes them."""
    folder = observer.folder.pending
    if step is not None:
        part = {"step": step, "responses": list(records)}
        torch.save(part, folder / f"step-{step:05d}-{rank}.pt")
        return
    for record in records:
        torch.save(record, folder / f"refused-{record['query_id']}.pt")


def read(folder: RunFolder, step: int) -> dict:
    return json.loads((folder.samples / f"step-{step:05d}.json").read_text())


def test_the_parts_of_a_step_become_one_file(make, tokenizer):
    observer = make(every=2)
    folder = str(observer.folder.pending)
    assert observer.trainer.told == [("keep_samples", folder, 2, LAST, 4)]
    pend(observer, 3, 0, response(0), response(0, tokens=False))
    pend(observer, 3, 1, response(1, question="How long?"))
    pend(observer, None, 0, refused("bad"))
    observer.step_done(3, {})
    whole = read(observer.folder, 3)
    first, second, third = whole["responses"]
    assert first["response"] == tokenizer.decode([9, 10, 1])
    assert first["question"] == tokenizer.decode([6, 7], skip_special_tokens=True)
    assert first["tokens"]["text"] == [tokenizer.decode([i]) for i in (9, 10, 1)]
    assert first["tokens"]["gain"] == [0.1235, None, 0.5]
    assert second["tokens"] == {} and third["question"] == "How long?"
    assert first["pictures"] == second["pictures"] == {"anchor": "step-00003-0.webp"}
    assert third["pictures"] == {"anchor": "step-00003-1.webp"}
    assert [each["reason"] for each in whole["refused"]] == ["vision_token"]
    assert list(observer.folder.pending.iterdir()) == []
    seen = read_step_samples(observer.folder.samples / "step-00003.json")
    assert (len(seen.responses), len(seen.refused)) == (3, 1)
    assert seen.responses[0].anchor.size == (84, 84)


def test_the_last_step_has_samples_and_leaves_nothing_pending(make):
    observer = make(every=3)
    pend(observer, LAST, 0, response(0))
    observer.step_done(LAST, {})
    assert len(read(observer.folder, LAST)["responses"]) == 1
    assert not observer.folder.pending.exists()


def test_between_two_steps_with_samples_nothing_is_done(make):
    observer = make(every=3)
    pend(observer, None, 0, refused("waits"))
    for step in (2, 3):
        observer.step_done(step, {})
    assert len(list(observer.folder.pending.iterdir())) == 1
    observer.step_done(4, {})
    assert read(observer.folder, 4)["refused"][0]["query_id"] == "waits"


def test_switched_off_nothing_is_there(make):
    observer = make(every=0)
    observer.step_done(1, {})
    assert observer.trainer.told == [] and not observer.folder.samples.exists()


def test_a_part_that_comes_into_sight_late_joins_its_step(make):
    observer = make()
    pend(observer, 1, 0, response(0))
    observer.step_done(1, {})
    pend(observer, 1, 1, response(1))
    pend(observer, 2, 0, response(2))
    observer.step_done(2, {})
    one = read(observer.folder, 1)["responses"]
    assert [each["query_id"] for each in one] == ["problem-0", "problem-1"]
    names = [each["pictures"]["anchor"] for each in one]
    assert names == ["step-00001-0.webp", "step-00001-1.webp"]


def test_the_oldest_go_but_the_first_and_the_last_stay(make):
    observer = make(megabytes=0.25)  # a picture of noise is 21 kB, three a step
    for step in range(1, 9):
        records = [response(10 * step + k) for k in range(3)]
        pend(observer, step, 0, *records)
        observer.step_done(step, {})
    kept = list(observer.folder.sample_files())
    assert kept[0] == 1 and kept[1:] == list(range(9 - len(kept[1:]), 9))
    assert 3 <= len(kept) < 8
    files = [file for some in observer.folder.sample_files().values() for file in some]
    size = sum(file.stat().st_size for file in files)
    assert 0.15e6 < size <= 0.25e6
    assert len(files) == 4 * len(kept)

    observer.config.megabytes = 1e-6  # less than one step: the last is all there is
    observer.step_done(9, {})
    assert list(observer.folder.sample_files()) == [8]


def test_a_resume_neither_loses_nor_repeats(make):
    observer = make()
    for step in (1, 2, 3):
        pend(observer, step, 0, response(step))
        observer.step_done(step, {})
    before = read(observer.folder, 2)
    pend(observer, 4, 0, response(4))  # the run dies in its fourth step
    (observer.folder.samples / "step-00004.json.part").touch()
    observer.folder.cut(2)
    again = make()
    assert list(again.folder.sample_files()) == [1, 2]
    assert read(again.folder, 2) == before
    for step in (3, 4):
        pend(again, step, 0, response(10 + step))
        again.step_done(step, {})
    for step in (3, 4):
        (only,) = read(again.folder, step)["responses"]
        assert only["query_id"] == f"problem-{10 + step}"
    aside = again.folder.set_aside()
    assert (aside / "samples" / "step-00001.json").is_file()
    assert not again.folder.samples.exists()


def test_wandb_has_a_table_with_pictures_and_tensorboard_text(
    make, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_DATA_DIR", "")  # so that it is reset afterwards
    monkeypatch.delenv("WANDB_DATA_DIR")
    texts = []
    writer = SimpleNamespace(add_text=lambda *args: texts.append(args))
    run = wandb.init(mode="offline", dir=tmp_path / "logs", project="p")
    try:
        observer = make(wandb="offline", writer=writer)
        pend(observer, 1, 0, response(0), response(1, pictures={}, images=0))
        pend(observer, None, 0, refused("bad"))
        observer.step_done(1, {})
    finally:
        files = run.settings.files_dir
        run.finish()
    assert len(list(Path(files).glob("media/table/samples_*.table.json"))) == 1
    staged = [file.read_bytes() for file in Path(files).parent.rglob("staging/*")]
    table, *_ = [json.loads(each) for each in staged if b'"columns"' in each]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["problem"] for row in rows] == ["problem-0", "problem-1", "bad"]
    assert rows[0]["reward"] == "0.9 (answer 1, format 0)"
    assert rows[0]["policy version"] == "3 to 4 (1 old)"
    assert rows[2]["refused"] == "vision_token"
    assert rows[0]["picture"]["_type"] == "image-file"
    assert rows[0]["picture"]["path"].endswith("step-00001-0.webp")
    assert (observer.folder.samples / "step-00001-0.webp").read_bytes() in staged
    assert rows[1]["picture"] is None
    ((tag, text, step),) = texts
    assert (tag, step) == ("samples", 0) and "advantage: 1.25" in text
