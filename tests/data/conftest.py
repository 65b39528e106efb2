"""A processor, caches of one test's own, and a dataset with the usual settings."""

from __future__ import annotations

import datasets
import pytest
from transformers import Qwen2_5_VLProcessor

from areal_cppo.config.blocks import DataConfig
from areal_cppo.data.dataset import ProblemDataset
from tests.data.problem_files import build_processor


@pytest.fixture(scope="session")
def processor() -> Qwen2_5_VLProcessor:
    return build_processor()


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """What `datasets` and this package keep, for one test only."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture
def load(processor):
    """`ProblemDataset` with the usual settings; other ones by name."""

    def load(
        path, split="train", seed=1, shuffle=False, processor=processor, sees=(), **data
    ):
        notes: list[str] = []
        dataset = ProblemDataset(
            processor,
            DataConfig(**data),
            path=str(path),
            split=split,
            seed=seed,
            shuffle=shuffle,
            sees=sees,
            note=notes.append,
        )
        dataset.notes = notes
        return dataset

    return load
