"""Rows of tokens by themselves.

Covers which responses share a prompt, cutting to a capacity, where a row's tokens are,
and repeated image features. Attention within rows is in test_attention.py, the real
actor on them in test_speed.py.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec
from areal.utils.data import concat_padded_tensors, pack_tensor_dict
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.step.batch import (
    Batch,
    PromptGroup,
    image_sets,
    needed_tokens,
    prompt_groups,
)
from areal_cppo.step.model import SharedImages
from areal_cppo.step.pack import Packer
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.rows import ImageOrder, RowStyle, make_row
from tests.step import harness

CPU = torch.device("cpu")
STYLE = RowStyle(harness.LAYOUT, harness.IMAGE, True, "sdpa", 1, {"use_cache": False})


def grid(*sides: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([[1, *side] for side in sides])


class TestWhoSharesWhat:
    def test_images(self):
        one, other = torch.randn(16, 9), torch.randn(16, 9)
        nearly = one.clone()
        nearly[7, 5] += 1  # not where a glance looks
        items = [
            {"pixel_values": one, "image_grid_thw": grid((4, 4))},
            {},
            {"pixel_values": other, "image_grid_thw": grid((4, 4))},
            {"pixel_values": one.clone(), "image_grid_thw": grid((4, 4))},
            {"pixel_values": one.clone(), "image_grid_thw": grid((2, 8))},
            {"pixel_values": nearly, "image_grid_thw": grid((4, 4))},
            {"pixel_values": other, "image_grid_thw": grid((4, 4))},
        ]
        assert image_sets(items) == [0, None, 2, 0, 4, 5, 2]

    def groups(self, ids, needed, sets, image_tokens=None):
        ids, needed = torch.tensor(ids), torch.tensor(needed).bool()
        kinds = torch.zeros_like(ids) if image_tokens is None else image_tokens
        lengths = (ids >= 0).sum(-1).tolist()
        data = {"input_ids": ids, "mm_token_type_ids": kinds}
        return prompt_groups(Batch(data, needed, ids, lengths, [], sets))

    def test_prompts(self):
        ids = [
            [5, 6, 7, 8, -1],
            [5, 6, 9, -1, -1],
            [5, 4, 7, 8, -1],  # another prompt
            [5, 6, 7, 8, 9],  # another image
            [5, 6, 7, 8, 3],  # a longer prompt
            [5, 6, 7, 8, -1],  # no loss
        ]
        needed = [
            [0, 1, 1, 0, 0],
            [0, 1, 0, 0, 0],
            [0, 1, 1, 0, 0],
            [0, 1, 1, 1, 0],
            [0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0],
        ]
        found = self.groups(ids, needed, [0, 0, 0, 3, 0, 0])
        alone = [PromptGroup((row,)) for row in (2, 3, 4, 5)]
        assert found == [PromptGroup((0, 1), 2), *alone]

    def test_an_image_behind_the_prompt_is_left_alone(self):
        ids = [[5, 6, 4, 8], [5, 6, 4, 8]]
        needed = [[0, 1, 0, 1]] * 2
        kinds = torch.tensor([[0, 0, 1, 0]] * 2)
        found = self.groups(ids, needed, [0, 0], kinds)
        assert found == [PromptGroup((0,)), PromptGroup((1,))]

    @given(
        prefix=st.integers(1, 9),
        own=st.lists(st.integers(1, 12), min_size=1, max_size=8),
        room=st.integers(0, 40),
    )
    def test_cut(self, prefix, own, room):
        lengths = [prefix + n for n in own]
        rows = tuple(range(len(own)))
        group = PromptGroup(rows, prefix if len(own) > 1 else 0)
        capacity = max(lengths) + room
        parts = group.cut(lengths, capacity)
        assert tuple(i for part in parts for i in part.responses) == rows
        for part in parts:
            assert part.tokens(lengths) <= capacity
            assert (part.prefix == 0) == (len(part.responses) == 1)
            shared = part.prefix * (len(part.responses) - 1)
            assert (
                part.tokens(lengths) == sum(lengths[i] for i in part.responses) - shared
            )

    def test_only(self):
        group = PromptGroup((1, 4, 6), 3)
        assert group.only({4, 6, 9}) == PromptGroup((4, 6), 3)
        assert group.only([6]) == PromptGroup((6,), 0)
        assert group.only([]) is None


def as_batch(items) -> Batch:
    data = concat_padded_tensors([dict(item) for item in items])
    images = data.pop("multi_modal_input")
    shape = data["input_ids"].shape
    return Batch(
        data,
        needed_tokens(data["loss_mask"], shifted=False),
        torch.arange(3 * shape.numel()).view(3, *shape),  # each its own
        data["attention_mask"].sum(-1).tolist(),
        images,
        image_sets(images),
    )


def pixels(row, batch) -> torch.Tensor:
    return row.pixel_values(lambda i: batch.images[i]["pixel_values"])


class TestRows:
    def test_places_find_every_token_of_every_response(self):
        batch = as_batch(harness.grouped_batch())
        groups = prompt_groups(batch)
        assert [g.responses for g in groups] == [
            (0, 1, 2, 3),
            (4, 5, 6),
            (7, 8),
            (9,),
            (10, 11),
        ]
        row = make_row(groups, batch, STYLE)
        assert row.responses == list(range(12))
        placed = replace(batch, data=batch.data | {"at": batch.position_ids[0]})
        whole, needed = placed.packed(row.responses)
        ids = row.inputs["input_ids"][0]
        assert torch.equal(ids[row.places], whole["input_ids"])
        assert len(ids) == sum(g.tokens(batch.lengths) for g in groups)
        # A prompt's positions are those of the first response that has it.
        first = [group.responses[0] for group in groups for _ in group.responses]
        width = batch.input_ids.shape[1]
        at = row.inputs["position_ids"][0, 0, row.places]
        starts = torch.repeat_interleave(
            torch.tensor(row.responses), torch.tensor(batch.lengths)
        )
        shared = at // width != starts
        assert torch.equal(at % width, whole["at"] % width)
        prompts = torch.repeat_interleave(
            torch.tensor(first), torch.tensor(batch.lengths)
        )
        assert torch.equal((at // width)[shared], prompts[shared]) and shared.any()

    def test_images_in_the_order_of_their_tokens(self):
        batch = as_batch(harness.grouped_batch())
        row = make_row(prompt_groups(batch), batch, STYLE)
        assert row.image_sets == [0, 4, 9]  # the other group has the first's image
        sizes = [16, 8 + 12, 24]
        assert len(pixels(row, batch)) == sum(sizes)
        grids = row.inputs["image_grid_thw"].tolist()
        assert grids == [[1, 4, 4], [1, 4, 2], [1, 2, 6], [1, 4, 4], [1, 6, 4]]
        order = row.image_order.token_index.tolist()
        first, second, alone = range(4), range(4, 9), range(9, 15)
        assert order == [*first, *second, *first, *alone]
        kinds = row.inputs["mm_token_type_ids"][0]
        assert int(kinds.sum()) == len(order)
        assert torch.equal(row.inputs["input_ids"][0] == harness.IMAGE, kinds.bool())

    @pytest.mark.parametrize("page", [1, 64])
    @pytest.mark.parametrize("rows", [[], [10, 11], [0, 1]])
    def test_every_row_has_an_image_and_fills_its_pages(self, rows, page):
        batch = as_batch(harness.grouped_batch())
        style = RowStyle(harness.LAYOUT, harness.IMAGE, True, False, page, {})
        groups = [g for g in prompt_groups(batch) if set(g.responses) & set(rows)]
        row = make_row(groups, batch, style)
        ids, packing = row.inputs["input_ids"][0], row.inputs["packing"]
        assert len(ids) % page == 0 and len(ids) >= 1
        assert sum(packing.queries) == len(ids)
        n_images = int(row.inputs["image_grid_thw"].prod(-1).sum()) // 4
        assert int((ids == harness.IMAGE).sum()) == n_images >= 1
        assert len(pixels(row, batch)) == 4 * n_images
        n_tokens = sum(group.tokens(batch.lengths) for group in groups)
        assert (row.places < n_tokens).all()

    def test_packed_is_what_areal_packs(self):
        batch = as_batch(harness.grouped_batch())
        rows = [7, 2, 10]
        mine, needed = batch.packed(rows)
        theirs = pack_tensor_dict({k: v[rows] for k, v in batch.data.items()})
        for key in ("input_ids", "loss_mask", "logprobs", "versions", "cu_seqlens"):
            assert torch.equal(mine[key], theirs[key]), key
        assert mine["max_seqlen"] == theirs["max_seqlen"]
        # Position t predicts t + 1.
        has_loss = theirs["loss_mask"].nonzero().flatten()
        assert torch.equal(needed, has_loss - 1)


class TestPacker:
    @pytest.fixture(autouse=True)
    def one_rank(self, actor):
        self.ranks = Ranks(actor.dp_group, CPU)

    def pack(self, items, entering=(), shared=True, **spec):
        batch = as_batch(items)
        packer = Packer(MicroBatchSpec(**spec), STYLE, shared, self.ranks)
        return packer(batch, set(entering)), batch

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize(
        "spec", [{"n_mbs": 1}, {"max_tokens_per_mb": 70}, {"n_mbs": 12}, {"n_mbs": 3}]
    )
    @pytest.mark.parametrize("entering", [(), (0, 2, 5, 9), range(10)])
    def test_each_response_once(self, shared, spec, entering):
        passes, _ = self.pack(harness.grouped_batch(), entering, shared, **spec)
        order = [i for item in passes for i in item.anchor.responses]
        assert sorted(order) == list(range(12))
        seen = [i for item in passes if item.view for i in item.view.responses]
        assert sorted(seen) == sorted(entering)
        for item in passes:  # views first, and only where a response enters
            assert (item.view is not None) == bool(
                set(item.anchor.responses) & set(entering)
            )
            tokens = item.anchor.inputs["input_ids"].numel()
            assert tokens <= spec.get("max_tokens_per_mb", 1000)
        views_first = [item.view is None for item in passes]
        assert views_first == sorted(views_first)

    def test_view_places(self):
        (item, _), batch = self.pack(harness.grouped_batch(), (0, 2, 5, 9), n_mbs=1)
        placed = item.view_places >= 0
        ids = item.view.inputs["input_ids"][0]
        assert torch.equal(
            ids[item.view_places[placed]], item.data["input_ids"][placed]
        )
        lengths = torch.tensor([batch.lengths[row] for row in item.anchor.responses])
        rows = torch.repeat_interleave(torch.tensor(item.anchor.responses), lengths)
        assert set(rows[placed].tolist()) == {0, 2, 5, 9}
        assert not set(rows[~placed].tolist()) & {0, 2, 5, 9}

    def test_number_is_a_multiple_of_the_divisor(self):
        found, _ = self.pack(harness.grouped_batch(), (0,), n_mbs=1, n_mbs_divisor=3)
        assert len(found) == 3
        assert found[2].anchor.responses == []


def test_needed_tokens():
    mask = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 0, 1, 1]])
    before = needed_tokens(mask, shifted=False)
    # Nothing predicts a first token.
    assert before.int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert torch.equal(needed_tokens(mask, shifted=True), mask.bool())


def test_image_features_are_repeated():
    class Tower(torch.nn.Module):
        def forward(self, pixel_values, grid_thw):
            assert grid_thw.tolist() == [[1, 2, 2], [1, 2, 4]]
            return Output(
                pooler_output=pixel_values * 10, deepstack_features=[pixel_values * 100]
            )

    class Output(SimpleNamespace):
        def __contains__(self, name):
            return name in vars(self)

    tower = Tower()
    shared = SharedImages(tower)
    grids = [torch.tensor([[1, 2, 2]]), torch.tensor([[1, 2, 4]])]
    order = ImageOrder.make(grids, [1, 0, 1, 1], 2, torch.device("cpu"))
    features = torch.arange(3.0).view(3, 1)  # 1 token of the first, 2 of the second
    with shared.ordered(order):
        output = tower(features, grid_thw="the row's", packing="the row's")
    expected = torch.tensor([1.0, 2, 0, 1, 2, 1, 2]).view(-1, 1)
    assert torch.equal(output.pooler_output, expected * 10)
    assert torch.equal(output.deepstack_features[0], expected * 100)
