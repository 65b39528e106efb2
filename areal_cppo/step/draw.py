"""Which responses of a group are compared with views, where not all of them are.

Drawn group by group, before the batch is cut into mini-batches, so that it does not
depend on how. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from areal_cppo.core import draw_responses
from areal_cppo.step.batch import COUNTS, images_of
from areal_cppo.step.gate import gate_tokens


def draw_from_group(
    group: Mapping[str, Any], gate: str, most: int, run_seed: int, version: int
) -> dict[str, Any]:
    """A group after `compute_advantages`, with the `COUNTS` of its responses.

    Parameters
    ----------
    group
        A padded item: the responses to one prompt.
    gate
        As `gate_tokens` takes it.
    most, run_seed, version
        As `draw_responses` takes them.
    """
    ids, mask = group["input_ids"], group["attention_mask"].bool()
    gated = gate_tokens(group, gate).any(-1)
    for i, item in enumerate(images_of(group)):
        gated[i] &= "pixel_values" in item
    tokens = [own[seen] for own, seen in zip(ids, mask, strict=True)]
    counts = draw_responses(gated, tokens, most, run_seed=run_seed, version=version)
    return {**group, COUNTS: counts[:, None].repeat(1, ids.shape[1])}
