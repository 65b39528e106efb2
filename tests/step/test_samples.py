"""Responses of a step that are kept: what is chosen, and that it is what was used."""

from __future__ import annotations

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import concat_padded_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.config.blocks import SAMPLE
from areal_cppo.core import denormalize, unpatchify
from areal_cppo.core.patchify import PatchLayout, patchify
from areal_cppo.step.objectives.cpl import CPLObjective
from areal_cppo.step.samples import SampleKeeper, small_pictures
from tests.step import harness

ALL = 99
LAST = 100


def kept(folder) -> list[dict]:
    """What ranks have written, of one step."""
    files = sorted(folder.glob("*.pt"))
    parts = [torch.load(file, weights_only=True) for file in files]
    assert len({part["step"] for part in parts}) <= 1
    return [record for part in parts for record in part["responses"]]


@pytest.fixture
def keep(actor, tmp_path):
    """Train on a batch and return what was kept of it."""

    def run(batch, responses=ALL, every=1):
        actor.keep_samples(str(tmp_path), every, LAST, responses)
        harness.update_gradient(actor, harness.prepared(actor, batch))
        return kept(tmp_path)

    yield run
    actor._samples = None


def of(records, item) -> dict:
    """The record of a trajectory."""
    n = int(item["loss_mask"].sum())
    ids = item["input_ids"][0, -n:].tolist()
    (record,) = [record for record in records if record["ids"] == ids]
    return record


@pytest.mark.parametrize(
    ("minibatches", "spec"), [(1, {}), (2, {"max_tokens_per_mb": 60})]
)
def test_tokens_and_views_are_those_of_the_step(
    actor, keep, monkeypatch, minibatches, spec
):
    """However responses are packed: all that the step's own selection handed on."""
    used, select = {}, CPLObjective._select

    def spy(self, tokens, anchor, negative, project):
        found = select(self, tokens, anchor, negative, project)
        for sequence in tokens.sequences[tokens.at].unique():
            own = tokens.sequences[tokens.at] == sequence
            labels = tuple(tokens.labels[tokens.at[own]].tolist())
            used[labels] = found.gain[own].tolist(), found.chosen[own].tolist()
        return found

    monkeypatch.setattr(CPLObjective, "_select", spy)
    monkeypatch.setattr(actor.config, "ppo_n_minibatches", minibatches)
    actor.config.mb_spec = MicroBatchSpec(n_mbs=1, **spec)
    batch = harness.grouped_batch()
    records = keep(batch)
    assert len(records) == len(batch)
    gated = [record for record in records if record["tokens"]]
    assert len(gated) == len(used) == 6
    for record in gated:
        tokens = record["tokens"]
        found = tokens["gain"], tokens["selected"]
        assert found == used[tuple(record["ids"])]
        assert {len(column) for column in tokens.values()} == {len(record["ids"])}
        assert set(record["pictures"]) == {"anchor", "positive", "negative"}
        assert record["advantage"] > 0
    for record in records:
        if not record["tokens"]:
            assert set(record["pictures"]) <= {"anchor"}
    text = of(records, batch[-1])
    assert text["pictures"] == {} and text["images"] == 0


def test_what_is_said_of_a_response(actor, keep):
    """Its prompt without images, reward, advantage, versions, and what it brought."""
    actor.set_version(6)
    batch = harness.uneven_batch()
    item = batch[0]
    own = {"query_id": "q", "answer": "15", "parts": {"answer": 1.0}}
    item["multi_modal_input"][0][SAMPLE] = own
    response = item["loss_mask"].bool()
    item["versions"][response] = torch.tensor([4] * 5 + [6] * 7, dtype=torch.int32)
    record = of(keep(batch), item)
    assert {name: record[name] for name in own} == own
    image = item["mm_token_type_ids"].bool()
    assert record["prompt"] == item["input_ids"][~response & ~image].tolist()
    assert (record["reward"], record["advantage"]) == (1.0, 1.0)
    assert (record["versions"], record["staleness"]) == ([(4, 5), (6, 7)], 2)
    images = item["multi_modal_input"][0]
    pixels = unpatchify(
        images["pixel_values"], images["image_grid_thw"], harness.LAYOUT
    )
    (whole,) = denormalize(pixels, harness.LAYOUT)
    shown = record["pictures"]["anchor"][0].permute(2, 0, 1) / 255
    assert (shown - whole.clamp(0, 1)).abs().max() < 0.01


@pytest.mark.parametrize("objective", ["grpo", "papo", "vppo", "dvrp", "pgpo"])
def test_other_objectives_have_no_perception_tokens(actor, keep, objective):
    actor.config.objective = objective
    records = keep(harness.uneven_batch())
    assert len(records) == 5 and not any(record["tokens"] for record in records)
    views = {kind for record in records for kind in record["pictures"]}
    expected = {"grpo": {"anchor"}, "dvrp": {"anchor", "negative", "positive"}}
    assert views == expected.get(objective, {"anchor", "negative"})


def test_only_gated_tokens_have_numbers(actor, keep, monkeypatch):
    """Advantages may differ within a response; what isn't finite is left out."""
    compute = actor.compute_advantages

    def uneven(data):
        data = compute(data)
        at = data[0]["loss_mask"].bool().nonzero()
        data[0]["advantages"][tuple(at[3])] = -1.0
        return data

    monkeypatch.setattr(actor, "compute_advantages", uneven)
    shown = CPLObjective.shown

    def poisoned(self, compared):
        values = shown(self, compared)
        return values | {"gain": values["gain"].clone().fill_(float("nan"))}

    batch = harness.uneven_batch()
    tokens = of(keep(batch), batch[0])["tokens"]
    assert [value is None for value in tokens["gain"]] == [t == 3 for t in range(12)]
    assert tokens["selected"][3] is None
    monkeypatch.setattr(CPLObjective, "shown", poisoned)
    tokens = of(keep(batch), batch[0])["tokens"]
    assert tokens["gain"] == [None] * 12 and any(tokens["selected"])


def test_the_update_is_the_same_with_samples_and_without(actor, keep, tmp_path):
    batch = harness.prepared(actor, harness.grouped_batch())
    without, _ = harness.update_gradient(actor, batch)
    keep(harness.grouped_batch())
    actor.keep_samples(str(tmp_path), 1, LAST, ALL)
    with_samples, _ = harness.update_gradient(actor, batch)
    assert torch.equal(with_samples, without)
    assert not any(SAMPLE in item["multi_modal_input"][0] for item in batch)


def test_a_full_disk_does_not_end_a_run(actor, keep, tmp_path):
    keep(harness.uneven_batch()[:1])
    actor.keep_samples(str(tmp_path / "gone"), 1, LAST, ALL)
    harness.update_gradient(actor, harness.prepared(actor, harness.uneven_batch()))


def group(rewards) -> dict:
    items = [harness.trajectory(i, 3, reward) for i, reward in enumerate(rewards)]
    item = concat_padded_tensors(items)
    shifted = torch.roll(item["loss_mask"], -1, dims=-1)
    return item | {"loss_mask": shifted, "advantages": torch.zeros(shifted.shape)}


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    responses=st.integers(1, 12),
    ranks=st.integers(1, 4),
    version=st.integers(0, 9),
    every=st.integers(1, 3),
    last=st.integers(1, 10),
)
def test_choice(tmp_path_factory, sizes, responses, ranks, version, every, last):
    """As many as are asked for, of all ranks together; none twice; pairs first."""
    folder = tmp_path_factory.getbasetemp()
    marked = 0
    for rank in range(ranks):
        keeper = SampleKeeper(str(folder), every, last, responses, rank, ranks)
        data = [group([0.1 * k for k in range(size)]) for size in sizes]
        batch = keeper.choose(data, version, harness.LAYOUT)
        found = [
            [
                row
                for row, images in enumerate(item["multi_modal_input"])
                if SAMPLE in images
            ]
            for item in batch
        ]
        assert sum(map(len, found)) == len(keeper.samples)
        due = version % every == 0 or version + 1 == last
        assert len(keeper.samples) == (min(keeper.share, sum(sizes)) if due else 0)
        for rows, size in zip(found, sizes):
            if len(rows) > 1:
                assert {0, size - 1} <= set(rows)
            elif rows:
                assert rows == [size - 1]
        marked += keeper.share
    assert marked == responses


def test_pictures_are_small(tmp_path):
    layout = PatchLayout()
    images = [torch.randn(3, 28 * 40, 28 * 20), *[torch.randn(3, 56, 56)] * 5]
    grid = torch.tensor([[1, 80, 40], *[[1, 4, 4]] * 5])
    small = small_pictures(patchify(images, layout), grid, layout)
    shapes = [tuple(picture.shape) for picture in small]
    assert shapes == [(512, 256, 3), *[(56, 56, 3)] * 3]
    assert all(picture.dtype == torch.uint8 for picture in small)
