"""Every shipped configuration goes through a dry run: no GPU, no weights, no network.

Data are small files in the public schemas, models have the real config.json. Covers
what is checked and what is said, by the controller for every configuration and by the
command line for one that has a script in examples/cppo; the other scripts with a
stand-in for Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from areal_cppo.errors import UserError
from areal_cppo.run.controller import dry_run, run
from areal_cppo.run.dry_run import describe, describe_steps
from tests.config.shipped import CONFIGS, FULL, NAMES, RECIPES

EXAMPLES = CONFIGS.parent / "examples" / "cppo"
KIND = {"model_type": "qwen2_5_vl"}
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.sh"))


@pytest.fixture
def said(local_paths, own_caches):
    """The notes of a dry run."""

    def said(name: str, *overrides: str) -> str:
        notes: list[str] = []
        dry_run(
            str(CONFIGS / name),
            [*local_paths(name), *overrides],
            lambda kind, text: notes.append(text),
        )
        return "\n".join(notes)

    return said


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration(said, name, tmp_path):
    text = said(name)
    large = {"3b": "3,754,622,976", "7b": "8,292,166,656"}
    tiny = "949," if name == "legends.yaml" else "948,"  # its words are tokens, too
    size = next((large[key] for key in large if f"-{key}_" in name), tiny)
    assert f"model: qwen2_5_vl, {size}" in text
    if name not in RECIPES:
        assert "GPUs: none" in text and "memory: " in text and "steps: 90" in text
    elif "lora" in name:
        assert "GPUs: 1, shared" in text and "LoRA of rank 32" in text
        assert "--lora-paths cppo-v0=initial_lora" in text
        assert text.count("worker: 1 x") == 2
    else:
        assert "GPUs: 8 = trainer 4 (fsdp:d4) + generation 4 (sglang:d4)" in text
        assert "server: 4 x python3 -m areal_cppo.serving.launch" in text
        assert text.count("worker: 4 x") == (3 if "virl39k_published" in name else 2)
    baseline = any(part in name for part in ("grpo", "noisyrollout", "dapo"))
    assert f"objective: {'grpo' if baseline else 'cppo'}" in text
    problems = {"geometry3k": 64, "virl39k": 512}
    for source, count in problems.items():
        if source in name:
            assert f"data: {count} problems, each with images, messages" in text
    assert text.endswith("nothing was started")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["papo"], "papo (gamma 0.01, eta1 0.03, eta2 0), "),
        (["vppo"], "vppo (top 0.4 of the tokens, advantages times 0.9 to dynamic), "),
        (["dvrp"], "dvrp (lambda_nec 0.01, lambda_rob 0.01, lambda_ent 0.05), "),
        (["pgpo"], "pgpo (tau 0.4, beta 2), "),
        (["vppo", "actor.vppo.beta_max=1.1"], "advantages times 0.9 to 1.1), "),
    ],
)
def test_an_objective_says_what_it_weighs(said, overrides, words):
    name, *more = overrides
    text = said("triangles.yaml", f"actor.objective={name}", *more)
    assert "objective: " in text and words in text


@pytest.mark.parametrize(
    ("problems", "overrides", "words"),
    [
        (200, ["total_train_steps=null"], "steps: 75, 3 epoch(s) of 25"),
        (203, ["total_train_steps=9"], "3 problems left over in each; ended by"),
        (
            24,
            ["total_train_steps=30"],
            "steps: 9, 3 epoch(s) of 3; raise total_train_epochs for",
        ),
    ],
)
def test_how_many_steps(load, problems, overrides, words):
    config = load("triangles.yaml", "total_train_epochs=3", *overrides)
    assert config.train_dataset.batch_size == 8
    assert words in describe_steps(config, problems)


def test_memory_without_a_gpu(load):
    small = load("triangles.yaml")
    assert "only tiny models" not in "".join(describe(small, KIND, 10**6))
    assert "only tiny models are practical" in "".join(describe(small, KIND, 10**12))


def test_memory_is_that_of_the_arithmetic(said):
    """16 bytes a parameter over four trainers; of LoRA the bf16 weights.

    The other parts are those of test_memory.py.
    """
    gib = 2**30
    full = said(FULL)
    weights = f"GiB = {3_754_622_976 * 16 / 4 / gib:.1f} weights, gradients, Adam + "
    assert f"memory of a trainer's GPU: about 50 {weights}" in full
    assert "that is: micro-batches of 16,384 tokens, in it 12 image(s)" in full
    assert "SGLang takes 0.8 of what is free" in full
    lora = said("qwen2_5_vl-7b_geometry3k_lora_80gb.yaml")
    weights = f"GiB = {8_292_166_656 * 2 / gib:.1f} "
    assert weights + "frozen weights + " in lora and weights + "weights + " in lora
    assert "56 KiB each" in lora


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["actor.backend=fsdp:d8"], "trainer 8 + generation 4"),
        (["train_dataset.path=/no/such/data"], "/no/such/data"),
        (["data.source=virl39k"], "expected columns question, answer, image"),
        (["train_dataset.batch_size=128"], "expected at most the 64 usable problems"),
        (["actor.path=no/such-model"], "no/such-model in the hub's cache"),
        (["data.max_prompt_tokens=3000"], "sglang.context_length"),
        (["data.max_prompt_tokens=10"], "train_dataset"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_each(said, overrides, words):
    with pytest.raises(UserError) as caught:
        said(FULL, *overrides)
    lines = str(caught.value).splitlines()
    assert words in lines[min(1, len(lines) - 1)]
    assert all("expected" in line and "found" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (False, "found no model.safetensors; download"),
        (True, "cluster.n_gpus_per_node: expected at most the 0 GPU(s)"),
    ],
)
def test_a_run_stops_before_it_reads_data(
    local_paths, models, tmp_path, monkeypatch, weights, words
):
    """Weights, then GPUs: what a dry run does without. No folder, no log is made."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    folder = tmp_path / "model"
    shutil.copytree(models["3B"], folder)
    if weights:
        (folder / "model.safetensors").touch()
    own = [f"actor.path='{folder}'", "train_dataset.path=/not/read"]
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        run(
            str(CONFIGS / FULL),
            [*local_paths(FULL), *own],
            lambda kind, **fields: said.append(kind),
            dict(os.environ),
        )
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert said == [] and not (tmp_path / "run" / "config.yaml").exists()


def test_there_are_the_scripts_of_the_issue():
    assert SCRIPTS == [
        "run_qwen2_5_vl-3b_geometry3k.sh",
        "run_qwen2_5_vl-3b_virl39k.sh",
        "run_qwen2_5_vl-7b_virl39k.sh",
    ]


@pytest.fixture
def started_in(tmp_path) -> Path:
    folder = tmp_path / "some where"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_passes_on_what_it_is_given(script, tmp_path, started_in):
    """Arguments, spaces and all, the folder, and the status that comes back."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf \'%s\\0\' "$PWD" "$@"\nexit 7\n')
    python.chmod(0o755)
    given = ["--dry-run", "run_dir=a b", "actor.cpl.views.negative=[{name: blank}]"]
    done = subprocess.run(
        [EXAMPLES / script, *given],
        cwd=started_in,
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    folder, program, flag, config, *rest = done.stdout.split("\0")[:-1]
    assert (done.returncode, folder, rest) == (7, str(started_in), given)
    assert (program, flag) == (str(EXAMPLES / "train.py"), "--config")
    name = script.removeprefix("run_").replace(".sh", ".yaml")
    assert Path(config).resolve() == CONFIGS / name


@pytest.mark.slow
def test_a_script_from_any_folder(local_paths, tmp_path, started_in):
    """For real, as far as a dry run is; it writes nothing."""
    paths = [word for word in local_paths(FULL) if not word.startswith("run_dir")]
    done = subprocess.run(
        [
            EXAMPLES / f"run_{FULL}".replace(".yaml", ".sh"),
            "--dry-run",
            *paths,
            "actor.cpl.views.negative=[{name: blank}]",
        ],
        cwd=started_in,
        env=os.environ
        | {"PYTHON": sys.executable, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was started" in done.stdout
    assert "GPUs: 8 = trainer 4" in done.stdout
    assert not list(started_in.iterdir())


def test_a_mistake_ends_a_script_with_its_status(started_in):
    done = subprocess.run(
        [EXAMPLES / SCRIPTS[0], "--no-such-flag"],
        cwd=started_in,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "--no-such-flag" in done.stderr
    assert not any(started_in.iterdir())
