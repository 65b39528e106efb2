"""What a dry run and docs/recipes.md say of memory: the sums of all recipes."""

from __future__ import annotations

import re

import pytest
import torch

from areal_cppo.config import memory
from areal_cppo.config.budget import server_memory, trainer_memory
from areal_cppo.config.memory import GIB
from areal_cppo.run import dry_run
from tests.config.shipped import (
    CONFIGS,
    FULL,
    LORA,
    PARAMETERS,
    RECIPES,
    published_config,
    size_of,
)

DOC = CONFIGS.parent / "docs" / "recipes.md"


def of(load, name: str, *overrides: str) -> tuple[dict[str, int], dict[str, int]]:
    """A trainer's and a server's parts of a recipe."""
    config, size = load(name, *overrides), size_of(name)
    model = published_config(size), PARAMETERS[size]
    return trainer_memory(config, *model), server_memory(config, *model)


@pytest.mark.parametrize(
    ("name", "card", "words"),
    [
        (FULL, 79.2, "GPUs of this machine: 79.2 GiB each; a trainer fits"),
        (FULL, 24.0, "a trainer may need 11.1 GiB more: lower actor.mb_spec."),
        (LORA, 23.6, "trainer and server fit"),
        (LORA, 15.0, "trainer and server may"),
        (FULL, None, None),
    ],
)
def test_whether_it_fits_the_gpus_here(load, monkeypatch, name, card, words):
    found = None if card is None else int(card * GIB)
    monkeypatch.setattr(dry_run, "gpu_bytes", lambda: found)
    size = size_of(name)
    said = dry_run.describe(load(name), published_config(size), PARAMETERS[size])
    lines = [line for line in said if "GPUs of this machine" in line]
    assert (words is None) == (lines == [])
    if words:
        assert words in lines[0]


def test_what_torch_sees(monkeypatch):
    if not torch.cuda.is_available():
        assert memory.gpu_bytes() is None
    sizes = [80 * GIB, 24 * GIB]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda i: type("Properties", (), {"total_memory": sizes[i]}),
    )
    assert memory.gpu_bytes() == 24 * GIB


def in_gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def documented() -> dict[str, list[str]]:
    """Rows of the table in docs/recipes.md by configuration, and its headings."""
    text = DOC.read_text().partition("## Memory")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    table = {"": rows[0][1:]}
    for first, *cells in rows[1:]:
        for name in re.findall(r"`([\w.-]+)`", first):
            table[f"{name}.yaml"] = cells
    return table


def test_the_documents_table_has_every_recipe():
    assert set(documented()) == {"", *RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_the_documents_table(load, name):
    table = documented()
    parts, server = of(load, name)
    held = {"weights, gradients, Adam", "frozen weights"}
    expected = {
        "sum": f"{sum(parts.values()) / GIB:.0f}",
        "weights, gradients, Adam": in_gib(sum(parts.get(key, 0) for key in held)),
        **{key: in_gib(value) for key, value in parts.items() if key not in held},
    }
    weights, cache = server.values()
    expected |= {"server: weights": in_gib(weights), "keys, values": in_gib(cache)}
    for heading, cell in zip(table[""], table[name], strict=True):
        assert cell == expected.get(heading, "0.0"), heading


def test_the_documents_other_sums(load):
    """What its text says of 40 GB cards, and of both on one GPU."""

    def trainer(name: str, override: str) -> int:
        return sum(of(load, name, override)[0].values())

    text = " ".join(DOC.read_text().split())
    half = "actor.mb_spec.max_tokens_per_mb=4096"
    small, seven = (trainer(n, half) for n in (FULL, FULL.replace("3b", "7b", 1)))
    assert f"({small / GIB:.0f} GiB a trainer)" in text and small < 39 * GIB
    assert f"the 7B ({seven / GIB:.0f} GiB) does not" in text and seven > 40 * GIB
    for name, card in ((LORA, 24), ("qwen2_5_vl-7b_geometry3k_lora_80gb.yaml", 80)):
        both = 2 * GIB + sum(sum(parts.values()) for parts in of(load, name))
        assert f"{both / 1e9:.0f} of {card} GB" in text
