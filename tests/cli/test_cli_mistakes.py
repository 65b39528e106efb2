"""A user's mistakes at the command line: one line, status 2, and nothing started.

Covers demo, train and report in processes of their own. `serve` is in tests/serving.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from areal_cppo.cli.demo import demo, quoted
from areal_cppo.cli.main import main, parse
from areal_cppo.errors import RunError, UserError
from areal_cppo.run.controller import describe

CONFIG = Path(__file__).parents[2] / "configs" / "triangles.yaml"


def run(*arguments: str) -> tuple[int, list[str]]:
    """Exit status and the lines on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "areal_cppo", *arguments],
        capture_output=True,
        text=True,
        timeout=60,  # the promise
    )
    return done.returncode, done.stderr.splitlines()


def test_settings_may_stand_anywhere(capsys):
    line = "demo a=1 --steps 4 b.c=[x] +d=2 --seed 2 ~e"
    args = parse(line.split())
    assert (args.steps, args.seed) == (4, 2)
    assert args.overrides == ["a=1", "b.c=[x]", "+d=2", "~e"]  # the last one counts
    assert parse(["train", "--config", "f", "x=1"]).overrides == ["x=1"]
    for wrong in ("demo a=1 --stepss 4", "serve --model m --port 1 a=1"):
        with pytest.raises(SystemExit) as end:
            parse(wrong.split())
        assert end.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor.path=/no/such/model", "actor.path: expected a model folder"),
        ("actor.cpl.taau=1", "did you mean tau?"),
        ("actor.cpl.tau=0", "cpl.tau"),
        ("train_dataset.path=squares", "triangles, found 'squares'"),
        ("seed=1", "run_dir: expected a new folder"),
    ],
)
@pytest.mark.slow
def test_a_wrong_setting(tmp_path, override, words):
    """The last one is none: there the folder holds a run."""
    if override == "seed=1":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    status, lines = run(
        *("train", "--config", str(CONFIG), f"run_dir={tmp_path}/run"),
        *("actor.path=areal_cppo/tasks/triangles/checkpoint", override),
    )
    assert status == 2
    assert len(lines) == 1 and words in lines[0]


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_started(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "areal_cppo", "train", "--dry-run"),
            *("--config", str(CONFIG), f"run_dir={tmp_path}/run"),
            "actor.path=areal_cppo/tasks/triangles/checkpoint",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "data: ",
        "fsdp:d1p1t1",
        "areal_cppo.serving.launch",
        "--sleep-on-idle",
    ):
        assert words in done.stdout
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_a_missing_config():
    status, lines = run("train", "--config", "none.yaml")
    assert status == 2
    assert len(lines) == 1 and "expected a YAML file, found none" in lines[0]


def test_a_folder_in_use(tmp_path, capsys):
    (tmp_path / "precious").write_text("kept")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "expected a folder that can be made" in capsys.readouterr().err


def test_no_steps(tmp_path):
    with pytest.raises(UserError, match="--steps: expected a number >= 1, found 0"):
        demo(0, str(tmp_path), 1, "cppo", [])


def test_too_little_disk(tmp_path, monkeypatch):
    full = SimpleNamespace(free=5 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(UserError, match="300 MiB of free disk, found 5 MiB"):
        demo(1, str(tmp_path / "run"), 1, "cppo", [])


def test_the_demo_hides_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    seen = []

    def run(config, overrides, name, steps):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return 0

    monkeypatch.setattr("areal_cppo.cli.demo.run_with_display", run)
    assert demo(1, str(tmp_path / "run"), 1, "grpo", []) == 0
    assert seen == [""]


def test_not_a_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "expected a run's folder" in capsys.readouterr().err


def test_an_unknown_command_has_status_2():
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("expected a"), 2, "expected a"),
        (RunError("died"), 1, "died"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left"),
        (RuntimeError("worker said: No space left on device (28)"), 1, "no space left"),
        (ValueError("many\nlines\nof text"), 1, "ValueError: many lines of text"),
    ],
)
def test_failures_in_one_line(error, status, words):
    got, text = describe(error)
    assert got == status and words in text and "\n" not in text


def test_paths_are_quoted_for_overrides():
    assert quoted(Path("/a b/c=d")) == "'/a b/c=d'"
    assert quoted(Path("/it's")) == "'/it\\'s'"
    assert quoted(3) == "3"


def test_nobody_reads_the_output():
    """As with `| head`: no traceback, and the status of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    study = Path(__file__).parents[2] / "examples" / "cppo" / "studies" / "small.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "areal_cppo", "study", str(study), "--dry-run"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
