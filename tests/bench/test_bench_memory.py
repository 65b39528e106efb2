"""Arms of `areal-cppo bench train-step` that the GPU has not the memory for.

Covers what each arm needs of a pretended card, that its peak as counted on the CPU is
not above the estimate, and what becomes of the others when one runs out of memory. Not
covered: a real GPU, and whether its allocator leaves more gaps than is assumed.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from areal.utils import stats_tracker

from areal_cppo.bench import actors as actors_module
from areal_cppo.bench import arm_memory as memory_module
from areal_cppo.bench import train_step
from areal_cppo.bench.actors import Actors
from areal_cppo.bench.arm_memory import arm_memory, lacking_memory
from areal_cppo.bench.arms import all_arms, select_arms
from areal_cppo.bench.models import model_config, model_folder
from areal_cppo.bench.quiet import quiet
from areal_cppo.bench.results import arms_table, describe_arms, describe_ratios
from areal_cppo.bench.train_step import Measured, measure
from areal_cppo.bench.workload import Workload
from areal_cppo.cli.main import main
from areal_cppo.config.memory import CUDA, GIB
from areal_cppo.config.models import ModelShape, count_parameters
from areal_cppo.errors import UserError

H100 = int(79.2 * GIB)
PARAMETERS = 3_754_622_976


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The 3B without weights: a folder and its configuration."""
    config = model_config("qwen2.5-vl-3b")
    folder = tmp_path_factory.mktemp("3B")
    config.save_pretrained(folder)
    return folder, config


def lacking(monkeypatch, large, card: int, letters: str | None, **sizes):
    monkeypatch.setattr(memory_module, "gpu_bytes", lambda: card)
    workload = Workload(**{"groups": 8, "max_tokens": 8192} | sizes)
    return lacking_memory(select_arms(letters), workload, *large)


def test_what_an_80_gb_card_takes(monkeypatch, large):
    """AReaL makes logits of all tokens at once: a gives up at 8,192 tokens a
    micro-batch, b at 4,096, too; ours never, but where all logits are asked for."""
    at_8192 = lacking(monkeypatch, large, H100, None)
    kept = {"d+", "f+"}  # their views' activations are
    assert set(at_8192) == {"a", "a*", "b", "d-response_logits", "d-all", *kept}
    at_4096 = lacking(monkeypatch, large, H100, None, max_tokens=4096)
    assert set(at_4096) == {"b", *kept}
    assert all("smaller --model" in at_8192[letter] for letter in kept)
    for letter in at_8192.keys() - kept:
        text = at_8192[letter]
        found = re.fullmatch(
            r"expected at least about (\d+) GiB of GPU memory, found 79\.2; set "
            r"--max-tokens (\d+)",
            text,
        )
        assert int(found[1]) >= 80 and int(found[2]) % 256 == 0
        fits = lacking(monkeypatch, large, H100, letter, max_tokens=int(found[2]))
        assert fits == {}
        more = int(found[2]) + 256
        assert lacking(monkeypatch, large, H100, letter, max_tokens=more)


def test_other_cards(monkeypatch, large):
    assert set(lacking(monkeypatch, large, 139 * GIB, None)) == {"d+", "f+"}
    assert lacking(monkeypatch, large, None, None) == {}
    nothing = lacking(monkeypatch, large, 40 * GIB, None)
    assert len(nothing) == len(all_arms())
    assert all("smaller --model, or a larger GPU" in text for text in nothing.values())


def test_the_batch_with_views_counts_only_if_it_is_there(large):
    shape = ModelShape.from_config(large[1].to_dict())
    workload = Workload(groups=8, max_tokens=4096)
    (ours,) = select_arms("c")
    alone, beside = (
        arm_memory(ours, workload, shape, PARAMETERS, views)["pixels"]
        for views in (False, True)
    )
    image, together = 1024 * 1176 * 4, 4096 // workload.shortest
    assert beside - alone == 3 * 64 * image
    # Of each response one, and those of a forward pass once more.
    assert alone == (64 + together) * image


def test_what_the_stock_arms_keep(large):
    """V x (T x (2 + 8) + 4,096) of logits; per sample its image, a copy in every
    group's result, one in the micro-batches."""
    shape = ModelShape.from_config(large[1].to_dict())
    workload = Workload(groups=8, max_tokens=8192)
    parts = {
        arm.letter: arm_memory(arm, workload, shape, PARAMETERS, arm.letter == "b")
        for arm in select_arms("a,b")
    }
    assert parts["a"]["weights, gradients, Adam"] == 16 * PARAMETERS
    assert parts["a"]["logits or a layer"] == 151_936 * (8192 * 10 + 4096)
    assert parts["b"]["logits or a layer"] == 151_936 * (8192 * 32 + 4096)
    sample = 64 * 1024 * 1176 * 4
    assert parts["a"]["pixels"] == sample * (1 + 8 + 1)
    assert parts["b"]["pixels"] == sample * (4 + 3 * (8 + 1))
    assert parts["b"]["text activations"] == 3 * parts["a"]["text activations"]
    assert parts["a"]["CUDA and gaps"] == CUDA


@pytest.mark.slow
def test_no_more_is_counted_than_estimated(monkeypatch):
    """Peaks of all live tensors, fp32 on the CPU, with the numbers' size in the
    estimate set to match."""
    monkeypatch.setattr(memory_module, "_BF16", 4)
    workload = Workload(image=224, response=60, group=4, groups=2, max_tokens=512)
    letters = "a,b,c,d,d-share_prompts,d-share_images,d-response_logits"
    results = []
    with quiet(), model_folder("small", workload.seed) as (folder, config):
        measure(select_arms(letters), workload, folder, config, 0, print, results)
        parameters = count_parameters(str(folder))
    assert len(results) == 7
    shape = ModelShape.from_config(config.to_dict())
    for result in results:
        arm, counted = result.arm, result.counts.peak_bytes
        parts = arm_memory(arm, workload, shape, parameters, views=arm.letter == "b")
        estimate = sum(parts.values()) - CUDA
        assert 0.95 * counted < estimate < 2 * counted


@pytest.fixture
def run(model, workload):
    """Measure arms of the tiny model; results, and what was noted."""

    def run(letters: str, repeats: int = 1):
        results, notes = [], []
        with quiet():
            measure(
                select_arms(letters), workload, *model, repeats, notes.append, results
            )
        return {result.arm.letter: result for result in results}, notes

    return run


def test_an_arm_that_cannot_fit_is_left_out(run, model, workload, monkeypatch):
    shape = ModelShape.from_config(model[1].to_dict())
    parameters = count_parameters(str(model[0]))
    needs = {
        arm.letter: sum(arm_memory(arm, workload, shape, parameters, False).values())
        for arm in select_arms("a,c")
    }
    assert needs["c"] < needs["a"]
    monkeypatch.setattr(memory_module, "gpu_bytes", lambda: needs["a"] - 1)
    results, notes = run("a,c")
    assert results["a"].counts is None and results["a"].seconds == []
    assert "expected at least about 2 GiB of GPU memory" in results["a"].failure
    assert notes[0].startswith("left out a: AReaL, GRPO: expected at least")
    assert results["c"].failure is None and len(results["c"].seconds) == 1

    monkeypatch.setattr(memory_module, "gpu_bytes", lambda: 1)
    with pytest.raises(UserError, match="--arms: expected at least about 2 GiB"):
        run("a,c")


@pytest.mark.parametrize("first", ["a", "c"])
def test_out_of_memory_costs_one_arm(run, monkeypatch, first):
    """One arm in its counting run, another in its first repeat. `b`, on the same actor
    as `a`, made anew, goes on, and so does what has failed in no run yet."""
    second = {"a": "c", "c": "a"}[first]
    seen = []
    right = train_step.train_step
    names = {"FSDPPPOActor": "a", "PublishedActor": "b", "CPPOActor": "c"}

    def train(actor, batch):
        letter = names[type(actor).__name__]
        seen.append(letter)
        if seen.count(letter) != {first: 1, second: 2}.get(letter):
            return right(actor, batch)
        with stats_tracker.scope("ppo_actor"):  # half a step's statistics
            stats_tracker.denominator(n_valid_tokens=torch.ones(1).bool())
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_step, "train_step", train)
    results, notes = run("a,b,c", repeats=2)
    for letter in (first, second):
        assert results[letter].failure == "out of memory"
        assert results[letter].seconds == []
        assert f"{letter}: out of memory, left out from here on" in notes
    assert results[first].counts is None
    assert results[second].counts.flops > 0
    assert results["b"].failure is None and len(results["b"].seconds) == 2
    assert results["b"].counts.flops > 0


def test_the_other_actor_leaves_the_gpu_first(workload, tmp_path, monkeypatch):
    """Whichever was made first: together they are more than the card has."""
    ours, stock = SimpleNamespace(device="cuda:0"), SimpleNamespace(device="cuda:0")
    actors = Actors(tmp_path, workload)
    actors._actors = {False: ours, True: stock}
    moved = []
    monkeypatch.setattr(
        actors_module, "_move", lambda actor, device: moved.append((actor, str(device)))
    )
    actors._make_room(False)
    actors._make_room(True)
    assert moved == [
        *((stock, "cpu"), (ours, "cuda:0")),
        *((ours, "cpu"), (stock, "cuda:0")),
    ]


def test_a_table_and_a_file_with_what_is_left(tmp_path):
    """Below the table why; no ratio to an arm that was not counted."""
    counts = train_step.Counts(10, 4, 0, 6)
    a, b, d = select_arms("a,b,d")
    results = [
        Measured(a, counts, [2.0]),
        Measured(b, failure="expected at least about 104 GiB"),
        Measured(d, replace(counts, flops=20), [], failure="out of memory"),
    ]
    described = describe_arms(results)
    assert described[1]["flops"] is None and "failure" not in described[0]
    assert described[1]["ratios"]["flops"] is None
    assert described[2]["ratios"]["flops"] == 2
    *rows, why_b, why_d = arms_table(described).splitlines()
    assert len(rows) == 4 and rows[2].split()[-1] == "-"
    assert why_b == "b: expected at least about 104 GiB"
    assert why_d == "d: out of memory"
    ratios = describe_ratios(results)
    assert ratios["flops_cppo_over_stock_grpo"] == 2
    assert ratios["cppo_over_published_cppo"] is None
    no_base = describe_arms([Measured(a, failure="out of memory"), results[2]])
    assert "ratios" not in no_base[1]

    path = tmp_path / "numbers.json"
    path.write_text(json.dumps({"arms": described, "ratios": ratios}))
    assert main(["bench", "plot", str(path), "-o", str(tmp_path)]) == 0
