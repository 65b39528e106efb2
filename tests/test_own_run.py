"""docs/own_run.md is walked, command by command, in fewer steps.

In a folder that holds nothing but links to `examples` and `configs`, as a clone would.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from areal_cppo.config.keys import check_early

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "own_run.md").read_text(encoding="utf-8")
CUSTOM = ROOT / "examples" / "cppo" / "custom"
STEPS = 2
FEWER = {
    "train": f"total_train_steps={STEPS} validation.every=1 validation.problems=8 "
    "samples.every=1",
    "eval": "--limit 12",
}


def commands(text: str) -> list[str]:
    """Lines of shell in the order in which they are told."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what a clone has, and the environment's commands on PATH."""
    for name in ("examples", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def walk(command: str) -> str:
    """What a command of the docs says, made shorter where it takes long."""
    words = shlex.split(command.replace("step-00030", f"step-{STEPS:05}"))
    if "--dry-run" not in words:
        words += FEWER.get(words[1], "").split()
    made = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, (
        f"{command}\n{made.stdout[-2000:]}{made.stderr[-2000:]}"
    )
    return made.stdout


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_examples_readme_says_what_the_docs_say():
    readme = (CUSTOM / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^    (.+)$", readme, re.MULTILINE)
    known = [command.split(" valid_dataset.path=")[0] for command in commands(DOCS)]
    assert len(told) == 4 and set(told) <= set(known)


def test_pictures_are_the_same_each_time_and_in_one_split_only(here):
    (draw,) = (line for line in commands(DOCS) if "custom/data" in line)
    assert "200 problems to train on, 60 to validate on" in walk(draw)
    data = here / "runs" / "custom" / "data"
    splits = {name: records(data / f"{name}.jsonl") for name in ("train", "valid")}
    first = {path: path.read_bytes() for path in (data / "images").iterdir()}
    walk(draw)
    assert first == {path: path.read_bytes() for path in (data / "images").iterdir()}
    seen = {
        name: {(first[data / row["images"][0]], row["problem"]) for row in rows}
        for name, rows in splits.items()
    }
    assert len(seen["train"]) == 200 and not seen["train"] & seen["valid"]
    assert Image.open(data / splits["train"][0]["images"][0]).size == (84, 84)


def test_the_configuration_for_gpus_has_no_unknown_key(here):
    walk(commands(DOCS)[0])
    check_early(CUSTOM / "gpu.yaml", paths=("train_dataset", "valid_dataset"))


@pytest.mark.slow
@pytest.mark.sglang
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not find_spec("sglang"), reason="needs SGLang: make setup")
def test_the_way_from_pictures_to_a_model_in_transformers(here):
    said = {command: walk(command) for command in commands(DOCS)}

    def of(part: str) -> str:
        (text,) = (text for command, text in said.items() if part in command)
        return text

    plan = of("--dry-run")
    assert "nothing was started" in plan and "200 of 200 rows" in plan
    assert "reward: for the true answer 1 (answer 1, looks 1)" in plan or (
        "for the true answer 0.9 (answer 1, looks 0)" in plan
    )
    assert "part answer: 1" in of("Red}") and "part looks: 0" in of("'\\boxed")

    for name in ("cppo", "grpo"):
        run = here / "runs" / "custom" / name
        steps = records(run / "metrics.jsonl")
        assert len(steps) == STEPS
        assert all({"reward/answer", "reward/looks"} <= set(step) for step in steps)
        measured = records(run / "evaluations.jsonl")
        assert [each["step"] for each in measured] == list(range(STEPS + 1))
        assert all(each["n"] == 8 and each["interval"] for each in measured)
        kept = [
            response
            for file in sorted((run / "samples").glob("step-*.json"))
            for response in json.loads(file.read_text())["responses"]
        ]
        assert kept and list((run / "samples").glob("step-*.webp"))
        assert {"answer", "looks"} == set(kept[0]["parts"])
        selected = [any(each["tokens"].get("selected", [])) for each in kept]
        assert any(selected) == (name == "cppo")
        page = (run / "report.html").read_text()
        assert "What colour is the" in page and "looks" in page
    assert "grpo" in (here / "runs" / "custom" / "compare.html").read_text()
    assert "12 problems" in of("areal-cppo eval")

    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    code = code.replace("step-00030", f"step-{STEPS:05}")
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert "\\boxed{" in made.stdout
