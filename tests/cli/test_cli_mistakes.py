"""A user's mistakes at the command line: one line, status 2, and nothing started.

Covers demo, train, eval, slurm, doctor and report, and how soon they answer. `serve` is
in tests/serving, what AReaL's dataclasses refuse in tests/config.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from areal_cppo.cli.common import config_file, quoted
from areal_cppo.cli.main import main, parse
from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.doctor import packages
from areal_cppo.errors import RunError, UserError
from areal_cppo.folder import FINISHED, STARTED, RunFolder
from areal_cppo.run.controller import describe
from areal_cppo.run.supervisor import RunEnd
from areal_cppo.tasks.problems import TRIANGLES

CONFIG = str(config_file("triangles.yaml"))
MODEL = f"actor.path={TRIANGLES.checkpoint}"
ROOT = Path(__file__).parents[2]


def mistake(capsys, *arguments: str) -> str:
    """The line that a mistake is answered with."""
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"areal-cppo {arguments[0]}: ")
    return line


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


COMMANDS = {
    "train": ("train",),
    "dry run": ("train", "--dry-run"),
    "eval": ("eval", "--model", str(TRIANGLES.checkpoint)),
    "slurm": ("slurm", "--nodes", "1"),
    "doctor": ("doctor",),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("config", "override", "words"),
    [
        ("none.yaml", "seed=1", "config: expected a YAML file, found none"),
        (CONFIG, "actor.cpl.taau=1", "did you mean tau?"),
        (CONFIG, "actor.path=[", "expected key=value on the command line, found 'ac"),
    ],
)
def test_a_wrong_file_or_key(capsys, command, config, override, words):
    name, *options = command
    assert words in mistake(capsys, name, *options, "--config", config, override)


@pytest.mark.parametrize("command", [("demo", "--steps", "1"), COMMANDS["train"]])
def test_a_model_that_is_not_there(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    config = ["--config", CONFIG] if command[0] == "train" else []
    line = mistake(capsys, *command, *config, "actor.path=/no/such/model")
    assert "actor.path: expected a model folder" in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor.cpl.tau=0", "cpl.tau"),
        ("train_dataset.path=squares", "triangles, found 'squares'"),
        ("seed=1", "run_dir: expected a new folder"),
    ],
)
@pytest.mark.slow
def test_a_wrong_setting(tmp_path, override, words, capsys):
    """The last one is none: there the folder holds a run."""
    if override == "seed=1":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    command = ["train", "--config", CONFIG, f"run_dir={tmp_path}/run", MODEL, override]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_started(tmp_path, monkeypatch, capsys):
    """And writes nothing, as the doctor."""
    monkeypatch.chdir(tmp_path)
    command = ["train", "--dry-run", "--config", CONFIG, f"run_dir={tmp_path}/run"]
    assert main([*command, MODEL]) == 0
    said = capsys.readouterr().out
    for words in (
        "data: ",
        "fsdp:d1p1t1",
        "areal_cppo.serving.launch",
        "--sleep-on-idle",
    ):
        assert words in said
    assert main(["doctor", *command[2:]]) in (0, 1, 2)
    assert not list(tmp_path.iterdir())


SOON = {
    "train": ("train", "--config", CONFIG, "actor.paath=x"),
    "train's model": ("train", "--config", CONFIG, "actor.path=/no/such/model"),
    "demo": ("demo", "--steps", "1", "actor.cpl.taau=1"),
    "eval": ("eval", "--config", CONFIG, "--model", "/no/such/model"),
    "slurm": ("slurm", "--config", CONFIG, "--nodes", "1", "actor.paath=x"),
    "doctor": ("doctor", "--config", "none.yaml"),
    "serve": ("serve", "--model", "/no/such/model", "--port", "1"),
    "report": ("report", "/no/such/run"),
}


def test_mistakes_are_told_before_torch_is_imported(tmp_path):
    """All in one process, which no test has made import anything."""
    program = f"""
import sys
from areal_cppo.cli.main import main
for command in {[*SOON.values()]}:
    assert main(list(command)) == 2, command
    heavy = {{"torch", "areal", "transformers", "sglang"}} & set(sys.modules)
    assert not heavy, (command, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(SOON)


@pytest.mark.parametrize(
    "command",
    [
        *(("train", "--config", CONFIG, MODEL), ("demo", "--steps", "1")),
        ("slurm", "--config", CONFIG, "--nodes", "1"),
        ("eval", "--config", CONFIG, "--model", str(TRIANGLES.checkpoint)),
        ("tiny-model", "--out", "model"),
        ("study", str(ROOT / "examples/cppo/studies/small.yaml"), "--dry-run"),
        ("bench", "train-step", "--quick"),
    ],
    ids=lambda command: command[0],
)
def test_other_versions_are_refused(command, tmp_path, monkeypatch, capsys):
    version = packages.metadata.version
    monkeypatch.setattr(
        packages.metadata,
        "version",
        lambda name: "0.5.11" if name == "sglang" else version(name),
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the demo sets it
    monkeypatch.chdir(tmp_path)
    line = mistake(capsys, *command)
    assert "sglang: found 0.5.11; " in line and "==0.5.10.post1" in line


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_demo_takes_every_objective(objective):
    assert parse(["demo", "--objective", objective]).objective == objective


def test_the_demo_refuses_other_objectives(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["demo", "--objective", "ppo"])
    assert caught.value.code == 2
    assert "invalid choice: 'ppo'" in capsys.readouterr().err


def test_a_folder_in_use(tmp_path, capsys):
    (tmp_path / "precious").write_text("kept")
    assert "new or empty folder" in mistake(capsys, "demo", "--out", str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = mistake(capsys, "demo", "--out", str(tmp_path / "file" / "run"))
    assert "expected a folder that can be made" in line


def test_no_steps(tmp_path, capsys):
    line = mistake(capsys, "demo", "--steps", "0", "--out", str(tmp_path))
    assert "--steps: expected a number >= 1, found 0" in line


def test_too_little_disk(tmp_path, monkeypatch, capsys):
    full = SimpleNamespace(free=5 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    line = mistake(capsys, "demo", "--out", str(tmp_path / "run"))
    assert "300 MiB of free disk, found 5 MiB" in line


def test_the_demo_hides_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    seen = []

    def supervise(*arguments):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return RunEnd(0)

    monkeypatch.setattr("areal_cppo.cli.train.supervise", supervise)
    run = ["--steps", "1", "--out", str(tmp_path / "run"), "--objective", "grpo"]
    assert main(["demo", *run]) == 0
    assert seen == [""]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ((), "areal-cppo: interrupted before its first step"),
        (
            ("metrics.jsonl",),
            "; without recover.mode=on there is no checkpoint to go o",
        ),
        (
            ("metrics.jsonl", "recover/step-00002"),
            "; the same command with recover.mod",
        ),
    ],
)
def test_ctrl_c_says_how_to_go_on(there, said, tmp_path, monkeypatch, capsys):
    def supervise(*arguments):
        for name in there:
            path = tmp_path / "run" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        (tmp_path / "run" / "logs").mkdir()
        return RunEnd(130, "interrupted", tmp_path / "run")

    monkeypatch.setattr("areal_cppo.cli.train.supervise", supervise)
    command = ["train", "--config", CONFIG, MODEL, f"run_dir={tmp_path}/run"]
    assert main(command) == 130
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("begun", [False, True])
def test_what_is_refused_is_no_failure_of_a_run_that_has_ended(
    begun, tmp_path, monkeypatch
):
    folder = RunFolder(tmp_path / "run").create()
    folder.metrics.write_text("{}\n")
    folder.event(FINISHED, step=2)

    def supervise(config, overrides, log, listener):
        log.touch()
        if begun:
            folder.event(STARTED)
        return RunEnd(2, "train_dataset: expected the data order", folder.path)

    monkeypatch.setattr("areal_cppo.cli.train.supervise", supervise)
    command = ["train", "--config", CONFIG, MODEL, f"run_dir={tmp_path}/run"]
    assert main([*command, "recover.mode=on"]) == 2
    failure = json.loads(folder.summary.read_text())["failure"]
    assert failure == ("train_dataset: expected the data order" if begun else None)


def test_not_a_run(tmp_path, capsys):
    assert "expected a run's folder" in mistake(capsys, "report", str(tmp_path))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fly", "invalid choice: 'fly'"),
        ("slurm --config x", "slurm: the following arguments are required: --nodes"),
        ("study", "areal-cppo study: the following arguments are required: FILE"),
        ("demo --steps x", "areal-cppo demo: argument --steps: invalid int value: 'x'"),
        ("trian --config x", "invalid choice: 'trian'; did you mean train?; see areal"),
        (
            "train --config x --dryrun",
            "--dryrun; did you mean --dry-run?; see areal-cpp",
        ),
        ("bench async --stalness 3", "did you mean --staleness?; see areal-cppo bench"),
        (
            "demo --zzz",
            "areal-cppo demo: unrecognized arguments: --zzz; see areal-cppo d",
        ),
    ],
)
def test_a_wrong_line_is_answered_in_one(line, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    (answer,) = capsys.readouterr().err.splitlines()
    assert said in answer and answer.endswith("--help")


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
    done = subprocess.run(
        [sys.executable, "-m", "areal_cppo", "doctor"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
