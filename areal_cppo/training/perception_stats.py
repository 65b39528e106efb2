"""What CPL records of a packed row with AReaL's stats tracker, under `cpl/`.

AReaL reduces each statistic over ranks and micro-batches; all ranks record the same
ones, since all of them run the same view passes. Letters as in `perception.py`: `T`
tokens of the row, `G` gated tokens, `N` selected tokens.
"""

from __future__ import annotations

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType


def record_views(kind: str, unchanged: torch.Tensor) -> None:
    """How many images got a view, and how many views equal their image.

    `kind` is positive or negative, `unchanged` bool `[images]`.
    """
    stats_tracker.denominator(**{f"cpl/{kind}_views": torch.ones_like(unchanged)})
    stats_tracker.stat(
        **{f"cpl/{kind}_views_unchanged": unchanged.float()},
        denominator=f"cpl/{kind}_views",
        reduce_type=ReduceType.SUM,
    )


def record_scores(
    gate: torch.Tensor,
    responses: torch.Tensor,
    gated: torch.Tensor,
    anchor_entropy: torch.Tensor,
    negative_entropy: torch.Tensor,
    gain: torch.Tensor,
) -> None:
    """Entropies and gain of the gated tokens, and how many responses had a view pass.

    `gate` is bool `[T]`, `responses` bool `[sequences]` (false for fillers), `gated`
    the positions of the gate's tokens, `[G]`; the others are `[G]`.
    """
    stats_tracker.denominator(
        **{"cpl/gated_tokens": gate, "cpl/view_sequences": responses}
    )
    stats_tracker.stat(
        **{
            "cpl/anchor_entropy": _spread(gate, gated, anchor_entropy),
            "cpl/negative_entropy": _spread(gate, gated, negative_entropy),
            "cpl/entropy_gain": _spread(gate, gated, gain),
        },
        denominator="cpl/gated_tokens",
        reduce_type=ReduceType.AVG,
    )


def record_loss(
    gate: torch.Tensor,
    selected: torch.Tensor,
    token_loss: torch.Tensor,
    to_positive: torch.Tensor,
    to_negative: torch.Tensor,
    weights: torch.Tensor,
) -> None:
    """Loss, divergences, margin and staleness weight of the selected tokens.

    `gate` is bool `[T]`, `selected` the positions of the tokens; the others are `[N]`.
    """
    mask = torch.zeros_like(gate)
    mask[selected] = True
    stats_tracker.denominator(**{"cpl/perception_tokens": mask})
    stats_tracker.stat(
        **{
            "cpl/loss": _spread(mask, selected, token_loss),
            "cpl/positive_divergence": _spread(mask, selected, to_positive),
            "cpl/negative_divergence": _spread(mask, selected, to_negative),
            "cpl/margin": _spread(mask, selected, to_negative - to_positive),
            "cpl/staleness_weight": _spread(mask, selected, weights),
        },
        denominator="cpl/perception_tokens",
        reduce_type=ReduceType.AVG,
    )


def _spread(like: torch.Tensor, index: torch.Tensor, values: torch.Tensor):
    """Values put at their positions of a row of zeros: fp32 `[T]`."""
    row = torch.zeros(like.shape, dtype=torch.float32, device=values.device)
    row[index] = values.detach().float()
    return row
