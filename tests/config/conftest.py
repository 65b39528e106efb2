"""Models without weights and data in the public schemas, on this machine's disk."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import datasets
import pytest
import yaml
from areal.api.cli_args import parse_cli_args, to_structured_cfg
from omegaconf import OmegaConf

from areal_cppo.config import TASK_NAMES
from areal_cppo.config.experiment import CPPOConfig, load_config
from areal_cppo.config.files import forced
from areal_cppo.config.models import read_model_config
from areal_cppo.config.reading import instantiate, wrong_values
from areal_cppo.config.resources import violations
from tests.config.shipped import CONFIGS, RECIPES, SIZES, published_config, size_of
from tests.data.problem_files import build_processor, geometry3k, virl39k

PROBLEMS = {"geometry3k": 64, "virl39k": 512}  # of the largest batch
_IMAGES = 6


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """A folder a size: config.json and a processor, no weights."""
    folders = {}
    for size in SIZES:
        folders[size] = tmp_path_factory.mktemp(f"Qwen2.5-VL-{size}")
        build_processor().save_pretrained(folders[size])
        (folders[size] / "config.json").write_text(json.dumps(published_config(size)))
    return folders


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, Path]:
    """A folder a dataset, each with enough problems for the largest batch."""
    folders = {name: tmp_path_factory.mktemp(name) for name in PROBLEMS}
    geometry3k(folders["geometry3k"], n=PROBLEMS["geometry3k"])
    geometry3k(folders["geometry3k"], n=_IMAGES, split="test")
    rows = [
        {
            "question": f"<image>\nHow long is side {i}?",
            "answer": f"\\boxed{{{i}}}",
            "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": 0.5,
            "category": "(GradeSchool) Geometric",
            "source": "made up",
            "qid": f"made-up-{i}",
            "image": [f"images/Part{i % _IMAGES % 2}/{i % _IMAGES}.jpg"],
        }
        for i in range(PROBLEMS["virl39k"])
    ]
    virl39k(folders["virl39k"], rows, n=_IMAGES)
    return folders


@pytest.fixture
def own_caches(tmp_path, monkeypatch) -> None:
    """What `datasets` and this package keep, for one test only."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="session")
def here(models, data):
    """Overrides of a shipped configuration: models and data on this machine."""

    def here(name: str) -> list[str]:
        if name not in RECIPES:
            names = (task for task in TASK_NAMES if f"{task}.yaml" == name)
            task = next(names, "triangles")
            folder = CONFIGS.parent / f"areal_cppo/tasks/{task}/checkpoint"
            return [f"actor.path='{folder}'"]
        source = "virl39k" if "virl39k" in name else "geometry3k"
        return [
            f"actor.path='{models[size_of(name)]}'",
            f"train_dataset.path='{data[source]}'",
        ]

    return here


@pytest.fixture
def local_paths(here, tmp_path):
    """What a user without the hub adds to a shipped configuration."""
    return lambda name: [f"run_dir='{tmp_path}/run'", *here(name)]


@pytest.fixture(scope="session")
def load(here, tmp_path_factory):
    """A shipped configuration with local paths, and further overrides.

    A copy of one that is read once: to read it takes a third of a second.
    """
    folder = tmp_path_factory.mktemp("run")

    @cache
    def read(name: str, *more: str) -> CPPOConfig:
        overrides = [f"run_dir='{folder}'", *here(name), *more]
        return load_config(CONFIGS / name, overrides)

    return lambda name, *more: deepcopy(read(name, *more))


@pytest.fixture(scope="session")
def as_shipped(tmp_path_factory):
    """A shipped configuration as it is, resolved; not to be changed.

    AReaL writes what it loads into the run's folder, `runs/...` as shipped.
    """

    @cache
    def as_shipped(name: str) -> CPPOConfig:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.getbasetemp())
            return load_config(CONFIGS / name)

    return as_shipped


@pytest.fixture(scope="session")
def told(here):
    """What is said of a shipped configuration with overrides; empty: nothing."""

    @cache
    def merged(name: str):
        own = ["run_dir=run", *here(name)]
        arguments = ["--config", str(CONFIGS / name), *map(forced, own)]
        node = to_structured_cfg(parse_cli_args(arguments)[0], CPPOConfig)
        return node, OmegaConf.to_container(node, resolve=True)

    model_config = cache(read_model_config)

    def told(name: str, *overrides: str) -> str:
        values = deepcopy(merged(name)[1])
        pairs = [override.partition("=")[::2] for override in overrides]
        pairs = [(key, yaml.safe_load(value)) for key, value in pairs]
        for key, value in pairs:
            put(values, key, value)
        for _, error in wrong_values(values):  # is ten times faster
            return str(error)
        node = deepcopy(merged(name)[0])
        for key, value in pairs:
            if isinstance(value, dict):
                node = OmegaConf.merge(node, nested(key, value))
            else:
                OmegaConf.update(node, key, value)
        try:
            config = instantiate(node)
        except ValueError as error:
            return str(error)
        found = violations(config, model_config(config.actor.path))
        return found[0] if found else ""

    return told


def put(values: dict, key: str, value) -> None:
    """Set a field of nested dicts and lists; blocks that are null are made."""
    *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for part in path:
        if isinstance(values, dict) and values.get(part) is None:
            values[part] = {}
        values = values[part]
    values[last] = value


def nested(key: str, value) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
