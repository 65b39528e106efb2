"""Which responses of a batch share a prompt, and which an image.

Told from the batch's content alone, so that it does not matter how responses came to be
in it. Letters: `B` responses of a padded batch, `S` its padded length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class PromptGroup:
    """Responses of a batch that are computed together.

    Attributes
    ----------
    rows
        Of the batch, ascending.
    prefix
        How many first tokens they share, images included; 0 for a single response.
    """

    rows: tuple[int, ...]
    prefix: int = 0

    def tokens(self, lengths: Sequence[int]) -> int:
        """Tokens to compute: the prompt once, and what each response adds."""
        return self.prefix + sum(lengths[row] - self.prefix for row in self.rows)

    def only(self, keep: Container[int]) -> PromptGroup | None:
        """The group without the rows that are not among `keep`; `None` if none is."""
        return _group(tuple(row for row in self.rows if row in keep), self.prefix)

    def cut(self, lengths: Sequence[int], capacity: int) -> list[PromptGroup]:
        """Groups of at most `capacity` tokens (or one response), each with a prompt."""
        parts: list[list[int]] = []
        room = 0
        for row in self.rows:
            own = lengths[row] - self.prefix
            if own > room:
                parts.append([])
                room = capacity - self.prefix
            parts[-1].append(row)
            room -= own
        return [_group(tuple(part), self.prefix) for part in parts]


def _group(rows: tuple[int, ...], prefix: int) -> PromptGroup | None:
    if not rows:
        return None
    return PromptGroup(rows, prefix if len(rows) > 1 else 0)


def image_sets(items: Sequence[dict[str, Any]]) -> list[int | None]:
    """Tell which responses have the same images.

    Parameters
    ----------
    items
        Per response `pixel_values` and `image_grid_thw`, or nothing.

    Returns
    -------
    list
        Per response the first response with equal images, possibly itself; `None`
        without an image.
    """
    seen: dict[tuple, list[int]] = defaultdict(list)
    sets: list[int | None] = []
    for row, item in enumerate(items):
        if "pixel_values" not in item:
            sets.append(None)
            continue
        grid = tuple(map(tuple, item["image_grid_thw"].tolist()))
        for first in seen[grid]:
            if _equal(items[first]["pixel_values"], item["pixel_values"]):
                sets.append(first)
                break
        else:
            seen[grid].append(row)
            sets.append(row)
    return sets


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two images are equal; a glance at some pixels tells most others apart."""
    if one is other:
        return True
    if one.shape != other.shape or not torch.equal(one[::97, ::97], other[::97, ::97]):
        return False
    return torch.equal(one, other)


def prompt_groups(
    input_ids: torch.Tensor,
    needed: torch.Tensor,
    image_tokens: torch.Tensor,
    lengths: Sequence[int],
    sets: Sequence[int | None],
) -> list[PromptGroup]:
    """Find the responses that share a prompt.

    A prompt is all before the first token that has a loss. Responses with an image
    token behind it, or without a loss, are left alone.

    Parameters
    ----------
    input_ids
        Int `[B, S]`.
    needed
        Bool `[B, S]`: position t predicts a token t + 1 with a loss.
    image_tokens
        Bool `[B, S]`.
    lengths
        Tokens per response.
    sets
        What `image_sets` said.

    Returns
    -------
    list
        Groups that hold each response once, in the order of their first ones.
    """
    first = needed.int().argmax(-1).tolist()
    usable = needed.any(-1).tolist()
    last_image = torch.where(
        image_tokens, torch.arange(image_tokens.shape[1], device=input_ids.device), -1
    ).amax(-1)
    groups: dict[tuple, list[int]] = {}
    rows = input_ids.cpu().numpy()
    for row, image_end in enumerate(last_image.tolist()):
        prefix = first[row] + 1
        if usable[row] and image_end < prefix < lengths[row]:
            key = (sets[row], rows[row, :prefix].tobytes())
        else:
            key, prefix = (row, None), 0
        groups.setdefault((prefix, key), []).append(row)
    return [_group(tuple(members), prefix) for (prefix, _), members in groups.items()]
