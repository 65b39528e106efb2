"""A batch as AReaL's trainer hands it over: responses, padded to one length.

Which of them share a prompt, and which an image, is told from the content alone, so
that it does not matter how they came to be in it. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from areal.utils.data import tensor_container_to
from torch import Tensor

from areal_cppo.config.blocks import SAME_AS

IMAGES = "multi_modal_input"  # AReaL's key: a dict of image tensors per response
# Ours (`draw.py`): fp32 `[B, S]`, how often a response counts in what an objective
# adds, 0 if its views are not computed. Without it all count once.
COUNTS = "view_counts"


@dataclass(frozen=True)
class Batch:
    """A batch on the model's device, all but its images.

    Attributes
    ----------
    data
        AReaL's padded tensors, from which the loss is computed.
    needed
        Bool `[B, S]`: position t predicts a response token t + 1.
    position_ids
        Int64 `[3, B, S]`: temporal, vertical and horizontal.
    lengths
        Tokens per response.
    images
        Per response `pixel_values` `[P, F]` and `image_grid_thw`, or nothing.
    sets
        Per response the first one with the same images; None without an image.
    """

    data: dict[str, Any]
    needed: Tensor
    position_ids: Tensor
    lengths: list[int]
    images: list[dict[str, Any]]
    sets: list[int | None]

    @classmethod
    def place(
        cls,
        padded: dict[str, Any],
        needed: Tensor,
        sets: list[int | None],
        positions: Callable[..., Tensor],
        device: torch.device,
    ) -> Batch:
        """Bring AReaL's padded batch to a device.

        `positions` is the model's `compute_3d_position_ids`; the others are as the
        attributes.
        """
        images = images_of(padded)
        data = {key: value for key, value in padded.items() if key != IMAGES}
        data = tensor_container_to(data, device)
        data["input_ids"] = data["input_ids"].long()
        grids = [item["image_grid_thw"] for item in images if "image_grid_thw" in item]
        # Without any grid the model could not compute positions.
        grid = torch.cat(grids) if grids else torch.zeros(0, 3, dtype=torch.long)
        # On the CPU: they are computed response by response, in Python.
        position_ids = positions(
            input_ids=data["input_ids"].cpu(),
            image_grid_thw=grid.cpu(),
            video_grid_thw=None,
            attention_mask=data["attention_mask"].cpu(),
            mm_token_type_ids=data["mm_token_type_ids"].cpu(),
            inputs_embeds=None,
            past_key_values=None,
        ).to(device)
        lengths = data["attention_mask"].sum(-1).tolist()
        return cls(data, needed.to(device), position_ids, lengths, images, sets)

    @property
    def input_ids(self) -> Tensor:
        """Int64 `[B, S]`."""
        return self.data["input_ids"]

    @property
    def image_tokens(self) -> Tensor:
        """Int `[B, S]`: 1 at an image's tokens."""
        return self.data["mm_token_type_ids"]

    def packed(self, responses: Sequence[int]) -> tuple[dict[str, Any], Tensor]:
        """Some responses as AReaL's loss takes them: without padding, one after the
        other, with `cu_seqlens` and `max_seqlen`; and which of those `T` tokens are
        needed: int64 `[W]`."""
        count, width = self.input_ids.shape
        device = self.input_ids.device
        sizes = [self.lengths[i] for i in responses]
        starts = [i * width for i in responses]
        pieces = [torch.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)]
        index = joined(pieces).to(device)
        data: dict[str, Any] = {}
        for key, value in self.data.items():
            if key == "attention_mask":
                continue
            if torch.is_tensor(value) and value.shape[:2] == (count, width):
                value = value.flatten(0, 1).index_select(0, index)
            data[key] = value
        bounds = torch.tensor([0, *sizes], dtype=torch.int32, device=device).cumsum(0)
        data["cu_seqlens"] = bounds.to(torch.int32)
        data["max_seqlen"] = max(sizes, default=0)
        return data, self.needed.flatten()[index].nonzero().flatten()


def images_of(padded: dict[str, Any]) -> list[dict[str, Any]]:
    """Per response of a padded batch its image tensors, or nothing."""
    return padded.get(IMAGES) or [{}] * len(padded["input_ids"])


def with_images(item: dict[str, Any]) -> dict[str, Any]:
    """A group as rollout hands it over, each response with its images.

    Those of one that says whose they are (`SAME_AS`) are the same tensors.
    """
    given = item.get(IMAGES)
    if given is None:
        return item
    images = []
    for own in given:
        own = dict(own)
        if SAME_AS in own:
            first = given[own.pop(SAME_AS)]
            own |= {key: first[key] for key in first if torch.is_tensor(first[key])}
        images.append(own)
    return item | {IMAGES: images}


def known_behaviour(
    behaviour: Tensor, proximal: Tensor, unlike: Tensor | None
) -> Tensor:
    """The behaviour policy's log-probs, where they are of the image that is trained on.

    Elsewhere (`UNLIKE`, 1) the proximal policy's, so that a token's importance weight
    is 1. All `[T]`, nats.
    """
    if unlike is None:
        return behaviour
    return torch.where(unlike.bool(), proximal, behaviour)


def joined(pieces: list[Tensor]) -> Tensor:
    """Int64: the pieces one after the other, perhaps none."""
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.long)


def needed_tokens(loss_mask: Tensor, *, shifted: bool) -> Tensor:
    """Where a distribution is asked for: bool `[B, S]`, position t predicts t + 1.

    `loss_mask` `[B, S]` is that of the tokens, or already `shifted` to positions that
    predict them, as `compute_advantages` leaves it.
    """
    if shifted:
        return loss_mask.bool()
    needed = torch.roll(loss_mask.bool(), -1, dims=-1)
    needed[:, -1] = False
    return needed


def image_sets(items: Sequence[dict[str, Any]]) -> list[int | None]:
    """Tell which responses have the same images.

    Parameters
    ----------
    items
        Per response `pixel_values` and `image_grid_thw`, or nothing.

    Returns
    -------
    list
        Per response the first response with equal images, possibly itself; None
        without an image.
    """
    seen: dict[tuple, list[int]] = defaultdict(list)
    sets: list[int | None] = []
    for i, item in enumerate(items):
        if "pixel_values" not in item:
            sets.append(None)
            continue
        grid = tuple(map(tuple, item["image_grid_thw"].tolist()))
        for first in seen[grid]:
            if _equal(items[first]["pixel_values"], item["pixel_values"]):
                sets.append(first)
                break
        else:
            seen[grid].append(i)
            sets.append(i)
    return sets


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two images are equal; a glance at some pixels tells most others apart."""
    if one is other:
        return True
    if one.shape != other.shape or not torch.equal(one[::97, ::97], other[::97, ::97]):
        return False
    return torch.equal(one, other)


@dataclass(frozen=True)
class PromptGroup:
    """Responses of a batch that are computed together.

    Attributes
    ----------
    responses
        Of the batch, ascending.
    prefix
        How many first tokens they share, images included; 0 for a single response.
    """

    responses: tuple[int, ...]
    prefix: int = 0

    def tokens(self, lengths: Sequence[int]) -> int:
        """Tokens to compute: the prompt once, and what each response adds."""
        return self.prefix + sum(lengths[i] - self.prefix for i in self.responses)

    def only(self, keep: Container[int]) -> PromptGroup | None:
        """The group's responses that are among `keep`; None if none is."""
        return _group(tuple(i for i in self.responses if i in keep), self.prefix)

    def cut(self, lengths: Sequence[int], capacity: int) -> list[PromptGroup]:
        """Groups of at most `capacity` tokens (or one response), each with a prompt."""
        parts: list[list[int]] = []
        room = 0
        for i in self.responses:
            own = lengths[i] - self.prefix
            if own > room:
                parts.append([])
                room = capacity - self.prefix
            parts[-1].append(i)
            room -= own
        return [_group(tuple(part), self.prefix) for part in parts]


def _group(responses: tuple[int, ...], prefix: int) -> PromptGroup | None:
    if not responses:
        return None
    return PromptGroup(responses, prefix if len(responses) > 1 else 0)


def prompt_groups(batch: Batch) -> list[PromptGroup]:
    """Find the responses that share a prompt.

    A prompt is all before the first token that has a loss. Responses with an image
    token behind it, or without a loss, are left alone.

    Returns
    -------
    list
        Groups that hold each response once, in the order of their first ones.
    """
    first = batch.needed.int().argmax(-1).tolist()
    usable = batch.needed.any(-1).tolist()
    place = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    last_image = torch.where(batch.image_tokens.bool(), place, -1).amax(-1)
    groups: dict[tuple, list[int]] = {}
    ids = batch.input_ids.cpu().numpy()
    for i, image_end in enumerate(last_image.tolist()):
        prefix = first[i] + 1
        if usable[i] and image_end < prefix < batch.lengths[i]:
            key = (batch.sets[i], ids[i, :prefix].tobytes())
        else:
            key, prefix = (i, None), 0
        groups.setdefault((prefix, key), []).append(i)
    return [_group(tuple(members), prefix) for (prefix, _), members in groups.items()]
