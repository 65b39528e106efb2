"""What a dry run and docs/recipes.md say of memory: the sums of all recipes."""

from __future__ import annotations

import re

import pytest
import torch

from areal_cppo.config import memory
from areal_cppo.config.budget import (
    gpu_need,
    most_tokens,
    server_memory,
    trainer_memory,
)
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

MOST = "actor.mb_spec.max_tokens_per_mb"
DOC = CONFIGS.parent / "docs" / "recipes.md"


def of(load, name: str, *overrides: str) -> tuple[dict[str, int], dict[str, int]]:
    """A trainer's and a server's parts of a recipe."""
    config, size = load(name, *overrides), size_of(name)
    model = published_config(size), PARAMETERS[size]
    return trainer_memory(config, *model), server_memory(config, *model)


@pytest.mark.parametrize(
    ("name", "card", "words"),
    [
        (FULL, 79.2, f"this machine: 79.2 GiB each; a trainer fits; {MOST}=32768"),
        (FULL, 60.5, "a trainer fits"),
        (FULL, 44.0, f"may need 6.3 GiB more: set {MOST}=10240, which leaves"),
        (FULL, 24.0, f"a trainer may need 26.3 GiB more: lower {MOST} or data.max"),
        (FULL, None, f"GPUs of 80 GB, since none is seen here: a trainer fits; {MOST}"),
        (LORA, 24.0, "trainer and server fit"),
        (LORA, 15.0, "trainer and server may"),
    ],
)
def test_whether_it_fits_the_gpus(load, monkeypatch, name, card, words):
    found = None if card is None else int(card * GIB)
    monkeypatch.setattr(dry_run, "gpu_bytes", lambda: found)
    size = size_of(name)
    said = dry_run.describe(load(name), published_config(size), PARAMETERS[size])
    (line,) = [line for line in said if line.startswith("GPUs of ")]
    assert words in line


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_proposed_is_the_most_that_leaves_a_tenth(load, name):
    """What the recipe itself has fits the GPU that it is for."""
    config, size = load(name), size_of(name)
    model = published_config(size), PARAMETERS[size]
    assert gpu_need(config, *model) < (24e9 if "24gb" in name else 79 * GIB)
    least = config.longest_prompt + config.gconfig.max_new_tokens
    needs = {t: gpu_need(config, *model, t) for t in range(1024, 33_792, 1024)}
    assert list(needs.values()) == sorted(needs.values())
    for card in (24 * GIB, 40 * GIB, 79 * GIB, 140 * GIB):
        fitting = [t for t, need in needs.items() if t >= least and need <= 0.9 * card]
        assert most_tokens(config, *model, card) == max(fitting, default=None)


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
    half = f"{MOST}=4096"
    small, seven = (trainer(n, half) for n in (FULL, FULL.replace("3b", "7b", 1)))
    assert f"({small / GIB:.0f} GiB a trainer)" in text and small < 39 * GIB
    assert f"the 7B ({seven / GIB:.0f} GiB) does not" in text and seven > 40 * GIB
    for name, card in ((LORA, 24), ("qwen2_5_vl-7b_geometry3k_lora_80gb.yaml", 80)):
        both = 2 * GIB + sum(sum(parts.values()) for parts in of(load, name))
        assert f"{both / 1e9:.0f} of {card} GB" in text
