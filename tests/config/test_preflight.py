"""The cheap checks before a start: versions, weights, the hub's cache, GPUs, disk.

With folders, packages and GPUs that are made up. Resources are in test_resources.py.
Not covered: a machine with GPUs.
"""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from areal.api.cli_args import SGLangConfig
from huggingface_hub import constants

from areal_cppo.cli.doctor import config_checks
from areal_cppo.config.budget import checkpoint_bytes
from areal_cppo.config.models import check_no_code
from areal_cppo.doctor import Check, packages
from areal_cppo.errors import UserError
from areal_cppo.folder import RunFolder
from areal_cppo.run import preflight
from areal_cppo.serving.launch import guarded
from areal_cppo.tasks.problems import TRIANGLES
from tests.config.shipped import CONFIGS, FULL, PARAMETERS

LORA = "qwen2_5_vl-7b_geometry3k_lora_80gb.yaml"
GIB = 2**30


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def cached(hub, name: str, files: dict[str, str]) -> None:
    """A model in the layout of the hub's cache."""
    folder = hub / ("models--" + name.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    for file, text in files.items():
        path = folder / "snapshots" / "abc" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_other_versions_stop_a_run(monkeypatch):
    versions = {"sglang": "0.5.11"}
    version = packages.metadata.version
    monkeypatch.setattr(
        packages.metadata, "version", lambda name: versions.get(name) or version(name)
    )
    with pytest.raises(UserError, match=r"sglang: found 0\.5\.11; .*0\.5\.10\.post1"):
        preflight.check_versions()
    versions["sglang"] = "0.5.10.post1"
    preflight.check_versions()


def test_other_pins_of_areal_do_not(monkeypatch):
    """A CPU installation has a newer torch than AReaL declares."""
    pin = packages.SpecifierSet("<1.0")
    monkeypatch.setattr(packages, "areal_pins", lambda: {"torch": pin})
    preflight.check_versions()


def test_weights(tmp_path):
    assert preflight.missing_weights(tmp_path) == ["model.safetensors"]
    parts = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    (tmp_path / "one.safetensors").touch()
    assert preflight.missing_weights(tmp_path) == ["two.safetensors"]
    with pytest.raises(UserError, match=r"found no two\.safetensors; download"):
        preflight.check_weights(SimpleNamespace(path=str(tmp_path)))
    (tmp_path / "two.safetensors").touch()
    preflight.check_weights(SimpleNamespace(path=str(tmp_path)))


def test_a_model_in_the_hubs_cache(hub, models, load):
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    config = load(FULL, f"actor.path={name}")
    with pytest.raises(UserError, match=f"hub's cache, found none.*hf download {name}"):
        preflight.check_model_config(config.actor)
    text = (models["3B"] / "config.json").read_text()
    cached(hub, name, {"config.json": text})
    assert preflight.check_model_config(config.actor)["hidden_size"] == 2048
    with pytest.raises(UserError, match=r"found no model\.safetensors"):
        preflight.check_weights(config.actor)
    index = json.dumps({"weight_map": {"a": "one.safetensors"}})
    snapshot = hub / "models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/abc"
    (snapshot / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"found no one\.safetensors"):
        preflight.check_weights(config.actor)
    (snapshot / "one.safetensors").touch()
    preflight.check_weights(config.actor)


def test_data_paths(hub, tmp_path, monkeypatch):
    def state(path):
        return preflight.check_data_path("train_dataset.path", str(path)).state

    assert state("triangles") == state("charts") == state(tmp_path) == "ready"
    (tmp_path / "a.parquet").touch()
    assert state(tmp_path / "*.parquet") == "ready"
    assert state(tmp_path / "*.jsonl") == state("no such folder") == "MISSING"
    assert state("hiyouga/geometry3k") == "MISSING"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert state("hiyouga/geometry3k") == "absent"  # will be fetched
    (hub / "datasets--hiyouga--geometry3k").mkdir(parents=True)
    assert state("hiyouga/geometry3k") == "ready"


def test_gpus_are_counted_where_the_run_starts(load, monkeypatch):
    monkeypatch.setattr(
        preflight, "check_torch_flash", lambda: Check("flash", True, "there")
    )
    config = load(FULL)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match=r"at most the 4 GPU\(s\).*found 8"):
        preflight.check_gpus(config)
    preflight.check_gpus(load(FULL, "scheduler.type=slurm"))  # they are elsewhere
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    preflight.check_gpus(config)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    preflight.check_gpus(load("triangles.yaml"))


def test_flash_attention_has_to_load(load, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    broken = Check("flash-attn", False, "2.8, undefined symbol", "build it")
    monkeypatch.setattr(preflight, "check_flash_attn", lambda: broken)
    monkeypatch.setattr(preflight, "check_torch_flash", lambda: Check("", True, ""))
    preflight.check_gpus(load(FULL))
    asked = load(FULL, "actor.attn_impl=flash_attention_2")
    with pytest.raises(UserError, match="undefined symbol; build it; or set .*sdpa"):
        preflight.check_gpus(asked)
    missing = Check("flash", False, "a build without it", "install another")
    monkeypatch.setattr(preflight, "check_torch_flash", lambda: missing)
    with pytest.raises(UserError, match="expected torch_flash to work .* without it"):
        preflight.check_gpus(load(FULL))
    preflight.check_gpus(load(FULL, "actor.attn_impl=sdpa"))


def test_disk_for_the_checkpoints(load, monkeypatch):
    """The last, the best and one an epoch in bf16; with Adam's moments those to go on
    from, of which two are kept while a third is written."""
    config = load(FULL, "total_train_epochs=2")
    needed = checkpoint_bytes(config, PARAMETERS["3B"])
    assert needed == PARAMETERS["3B"] * (4 * 2 + 3 * 12)
    off = load(FULL, "recover.mode=disabled", "saver.freq_epochs=null")
    assert checkpoint_bytes(off, PARAMETERS["3B"]) == PARAMETERS["3B"] * (2 * 2)
    assert checkpoint_bytes(load(LORA), PARAMETERS["7B"]) == PARAMETERS["7B"] * 2 * 3
    free = needed
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(UserError, match=f"run_dir: found {free / GIB:.1f} GiB free"):
        preflight.check_run_disk(config)
    free = needed + GIB
    preflight.check_run_disk(config)


def test_a_folder_in_use_is_no_place_for_a_run(load, tmp_path):
    """As the doctor sees it, and a start; a run that may go on is at home there."""
    run = RunFolder(tmp_path / "run").create()
    run.metrics.write_text("{}\n")
    there = [f"run_dir='{run.path}'", "recover.mode=disabled"]
    with pytest.raises(UserError, match="run_dir: expected a new folder, found a run"):
        preflight.check_run_disk(load("triangles.yaml", *there))
    preflight.check_run_disk(load("triangles.yaml", there[0], "recover.mode=on"))


def test_the_doctor_looks_at_a_configuration(local_paths, tmp_path):
    """The whole table without weights: what is there is ready, the rest is said."""
    rows = config_checks(str(CONFIGS / FULL), local_paths(FULL))
    state = {row.name: row.state for row in rows}
    assert state.pop("run_dir") in ("ready", "MISSING")  # this machine's disk
    assert state == {
        "actor.path": "ready",
        "resources": "ready",
        "GPUs of the run": "MISSING",
        "weights": "MISSING",
        "train_dataset.path": "ready",
        "valid_dataset.path": "ready",
    }
    wrong = config_checks(
        str(CONFIGS / FULL), [*local_paths(FULL), "actor.backend=fsdp:d8"]
    )
    resources = next(row for row in wrong if row.name == "resources")
    assert not resources.ready and "trainer 8 + generation 4" in resources.found


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_with_code_of_its_own_is_refused(tmp_path, name):
    """AReaL would run it; and no server is given leave to."""
    folder = tmp_path / "model"
    shutil.copytree(TRIANGLES.checkpoint, folder)
    check_no_code(str(folder))
    file = folder / name
    said = json.loads(file.read_text()) | {"auto_map": {"AutoConfig": "own.Config"}}
    file.write_text(json.dumps(said))
    with pytest.raises(UserError, match=f"found auto_map in .*/{name}, which AReaL"):
        check_no_code(str(folder))
    command = SGLangConfig.build_cmd_from_args({"trust_remote_code": True})
    assert "--trust-remote-code" in command
    assert "--trust-remote-code" not in guarded(command)
