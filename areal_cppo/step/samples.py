"""Responses of a step that are kept to be read (`areal_cppo.run.samples`).

A rank chooses some of its responses before an update and marks them in the batch: among
a response's images, under `SAMPLE`, a `Sample` stands in place of what the workflow put
there. The update finds the marks wherever a response is packed, and adds what it has
computed; nothing is computed for them. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from areal.utils import logging
from torch import Tensor
from torch.nn import functional

from areal_cppo.config.blocks import SAMPLE, SAMPLE_PICTURES, SAMPLE_SIDE, has_samples
from areal_cppo.core import PatchLayout, denormalize, unpatchify
from areal_cppo.step.batch import IMAGES, images_of
from areal_cppo.step.gate import Gated
from areal_cppo.step.pack import MicroBatch

logger = logging.getLogger("SampleKeeper")


@dataclass
class Sample:
    """A chosen response.

    Attributes
    ----------
    record
        What is known of it: plain values, and pictures as uint8 `[height, width, 3]`.
    start
        Tokens before the response.
    """

    record: dict[str, Any]
    start: int

    def add_tokens(self, gate: Tensor, values: Mapping[str, Tensor]) -> None:
        """What is known of its tokens, None where they are not gated.

        `gate` is bool, of the whole sequence at the positions that predict a token;
        `values` have one at each gated token.
        """
        places = gate.nonzero().flatten() - (self.start - 1)
        columns = {name: value.tolist() for name, value in values.items()}
        for name, column in columns.items():
            found: list[Any] = [None] * len(self.record["ids"])
            for place, value in zip(places.tolist(), column, strict=True):
                found[place] = value if isfinite(value) else None
            self.record["tokens"][name] = found


class SampleKeeper:
    """Chooses a rank's share of a step's samples and writes them.

    Parameters
    ----------
    folder
        Where they wait to be gathered; it exists.
    every, last
        Which steps have some (`has_samples`).
    responses
        Of such a step, of all ranks.
    rank, ranks
        This one's number, and how many there are.
    """

    def __init__(
        self, folder: str, every: int, last: int, responses: int, rank: int, ranks: int
    ):
        self.folder, self.rank = Path(folder), rank
        self.every, self.last = every, last
        self.share = responses // ranks + (rank < responses % ranks)
        self.samples: list[Sample] = []

    def choose(
        self, data: Sequence[Mapping[str, Any]], version: int, layout: PatchLayout
    ) -> list[dict[str, Any]]:
        """The batch with some responses marked, at a policy version.

        Groups are drawn by lot, and of each the responses of highest and of lowest
        reward taken. `data` is a batch after `compute_advantages`, an item a group.
        """
        data, self.samples = [dict(item) for item in data], []
        if not (self.share and has_samples(version + 1, self.every, self.last)):
            return data
        groups = list(range(len(data)))
        random.Random(f"{version}/{self.rank}").shuffle(groups)
        order = [_best_and_worst(data[g]["rewards"].tolist()) for g in groups]
        queue = sorted(
            (place // 2, turn, place, groups[turn], row)
            for turn, rows in enumerate(order)
            for place, row in enumerate(rows)
        )
        anchors: dict[int, dict[str, list[Tensor]]] = {}
        for *_, g, row in queue[: self.share]:
            item = data[g]
            images = list(images_of(item))
            if g not in anchors:
                of_group = {"anchor": images[row].get("pixel_values")}
                anchors[g] = _pictures(of_group, images[row], layout)
            sample = _sample(item, row, images[row], version, anchors[g])
            images[row] = images[row] | {SAMPLE: sample}
            if IMAGES in item:  # else AReaL's own text, in none of the groups
                item[IMAGES] = images
            self.samples.append(sample)
        return data

    def write(self, version: int) -> None:
        """Write what was chosen, as a file of this rank's."""
        if not self.samples:
            return
        records = [sample.record for sample in self.samples]
        self.samples = []
        whole = io.BytesIO()  # what torch says of a full disk is no OSError
        torch.save({"step": version + 1, "responses": records}, whole)
        aside = self.folder / f"step-{version + 1:05d}-{self.rank}.part"
        try:
            aside.write_bytes(whole.getvalue())
            aside.rename(aside.with_suffix(".pt"))
        except OSError as error:  # no reason to end a run
            logger.warning("samples of step %d were not kept: %s", version + 1, error)


def _best_and_worst(rewards: Sequence[float]) -> list[int]:
    """Rows of a group: highest reward, lowest, then the others."""
    best, *rest = sorted(range(len(rewards)), key=lambda row: -rewards[row])
    return [best, *rest[-1:], *rest[:-1]]


def _sample(
    item: Mapping[str, Any],
    row: int,
    images: Mapping[str, Any],
    version: int,
    pictures: Mapping[str, list[Tensor]],
) -> Sample:
    predicts = item["loss_mask"][row].bool()  # shifted: position t predicts t + 1
    at = predicts.nonzero().flatten() + 1
    start = int(at[0]) if len(at) else int(item["attention_mask"][row].sum())
    ids, versions = item["input_ids"][row], item["versions"][row][at].tolist()
    prompt = ids[:start]
    if "mm_token_type_ids" in item:
        prompt = prompt[item["mm_token_type_ids"][row, :start] == 0]
    record = dict(images.get(SAMPLE) or {})
    record |= {
        "prompt": prompt.tolist(),
        "ids": ids[at].tolist(),
        "reward": float(item["rewards"][row]),
        "advantage": float(item["advantages"][row][predicts].mean())
        if len(at)
        else 0.0,
        "versions": [(v, len(list(tokens))) for v, tokens in groupby(versions)],
        "staleness": version - min(versions, default=version),
        "images": len(images.get("image_grid_thw", ())),
        "pictures": dict(pictures),
        "tokens": {},
    }
    return Sample(record, start)


def samples_in(images: Sequence[Mapping[str, Any]]) -> dict[int, Sample]:
    """The marked ones among responses' images, by their number."""
    marks = ((i, item.get(SAMPLE)) for i, item in enumerate(images))
    return {i: mark for i, mark in marks if isinstance(mark, Sample)}


def keep_views(padded: Mapping[str, Any], gated: Gated, layout: PatchLayout) -> None:
    """Give the marked responses of a padded batch that are compared their views."""
    images = images_of(padded)
    made: dict[int, dict[str, list[Tensor]]] = {}
    for i, sample in samples_in(images).items():
        if gated.drawn[i]:
            first = gated.sets[i]
            if first not in made:
                views = gated.views[first].pixel_values
                made[first] = _pictures(views, images[i], layout)
            sample.record["pictures"] |= made[first]


def keep_tokens(
    micro_batch: MicroBatch, gate: Tensor, values: Mapping[str, Tensor]
) -> None:
    """Give the marked responses of a micro-batch what is known of their gated tokens.

    `gate` is bool `[T]`; `values` are `[G]` each, by name.
    """
    marked = samples_in(micro_batch.images)
    if not marked or not values:
        return
    bounds = micro_batch.data["cu_seqlens"].tolist()
    place = torch.zeros_like(gate, dtype=torch.long)
    place[gate] = torch.arange(int(gate.sum()), device=gate.device)
    for k, i in enumerate(micro_batch.anchor.responses):
        own = gate[bounds[k] : bounds[k + 1]]
        if i in marked and own.any():
            among = place[bounds[k] : bounds[k + 1]][own]
            chosen = {name: value[among] for name, value in values.items()}
            marked[i].add_tokens(own, chosen)


def _pictures(
    pixel_values: Mapping[str, Tensor | None], images: Mapping[str, Any], layout
) -> dict[str, list[Tensor]]:
    """By kind, of `[P, F]` each; without an image, none."""
    return {
        kind: small_pictures(patches, images["image_grid_thw"], layout)
        for kind, patches in pixel_values.items()
        if patches is not None
    }


def small_pictures(
    pixel_values: Tensor, grid: Tensor, layout: PatchLayout
) -> list[Tensor]:
    """The first pictures of `[P, F]` as uint8 `[height, width, 3]`, on the CPU.

    No side is above `SAMPLE_SIDE`; `grid` is their `image_grid_thw`.
    """
    grid = grid[:SAMPLE_PICTURES]
    patches = pixel_values[: int(grid.prod(-1).sum())]
    small = []
    for picture in denormalize(unpatchify(patches, grid, layout), layout):
        scale = SAMPLE_SIDE / max(picture.shape[1:])
        if scale < 1:
            size = [max(1, round(side * scale)) for side in picture.shape[1:]]
            picture = functional.interpolate(
                picture[None], size, mode="bilinear", antialias=True
            )[0]
        eight_bits = picture.clamp(0, 1).mul(255).round().byte()
        small.append(eight_bits.permute(1, 2, 0).contiguous().cpu())
    return small
