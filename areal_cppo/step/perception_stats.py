"""What an objective records of its gate, and CPL of its tokens, with AReaL's tracker.

AReaL reduces each statistic over ranks and micro-batches; all ranks record the same
ones, since all of them run the same view passes. Letters as in `perception.py`: `T`
tokens of the row, `G` gated tokens, `N` perception tokens; `B` rows of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from areal.utils import stats_tracker
from areal.utils.stats_tracker import ReduceType

from areal_cppo.step.packing import PackedRow
from areal_cppo.step.perception import RowLoss, Selection
from areal_cppo.step.views import ResponseViews


def record_gate(
    passed: torch.Tensor,
    image: torch.Tensor,
    views: Mapping[int, ResponseViews],
    kinds: Collection[str],
    scope: str,
) -> None:
    """What became of a batch's responses at the gate, and of their views.

    `passed` and `image` are bool `[B]`: has a gated token, has an image. `views` are
    those of the rows for which both hold, of these `kinds`. Recorded under `scope`.
    """
    usable = torch.zeros_like(passed)
    for row, view in views.items():
        usable[row] = view.usable
    stats_tracker.denominator(
        **{
            f"{scope}/gated_responses": usable,
            f"{scope}/text_only_responses": passed & ~image,
            f"{scope}/unchanged_responses": passed & image & ~usable,
            f"{scope}/rows": torch.ones_like(passed),
        }
    )
    counts = {}
    for kind in kinds:
        images, unchanged = torch.zeros(2, len(passed))
        for row, view in views.items():
            images[row], unchanged[row] = view.images, view.unchanged[kind]
        counts[f"{scope}/{kind}_views"] = images
        counts[f"{scope}/{kind}_views_unchanged"] = unchanged
    stats_tracker.stat(
        **{name: count.to(passed.device) for name, count in counts.items()},
        denominator=f"{scope}/rows",
        reduce_type=ReduceType.SUM,
    )


def record_row(
    row: PackedRow,
    selection: Selection,
    result: RowLoss,
    nonfinite: torch.Tensor,
    skipped: bool,
    max_staleness: int | None,
    version: int,
) -> None:
    """Scores, divergences, losses and weights of a row that had its view passes.

    Of a row that was left out (`skipped`) because some rank's row holds a token that is
    not finite (`nonfinite` are this one's, bool `[T]`), only the counts.
    """
    positions, scores = selection.positions, selection.scores
    responses, gate = and_none(row.responses), and_none(row.gate)
    at_gate = partial(spread, gate, selection.gated)
    at_selected = partial(spread, gate, positions)
    selected = at_selected(torch.ones_like(positions)).bool()
    stale = torch.zeros_like(gate)
    if max_staleness is not None:
        stale = selected & and_none(version - row.versions > max_staleness)
    kept = torch.full_like(gate, not skipped)
    stats_tracker.denominator(
        **{
            "cpl/view_sequences": responses,
            "cpl/skipped_responses": responses & skipped,
            "cpl/nonfinite_tokens": and_none(nonfinite),
            "cpl/gated_tokens": gate & kept,
            "cpl/perception_tokens": selected & kept,
            "cpl/unselected_tokens": gate & ~selected & kept,
            "cpl/stale_tokens": stale & kept,
        }
    )
    stats_tracker.stat(
        **{
            "cpl/anchor_entropy": at_gate(scores.anchor_entropy),
            "cpl/negative_entropy": at_gate(scores.negative_entropy),
            "cpl/entropy_gain": at_gate(selection.gain),
        },
        denominator="cpl/gated_tokens",
        reduce_type=ReduceType.AVG,
    )
    stats_tracker.stat(
        **{"cpl/unselected_divergence": at_gate(scores.divergence)},
        denominator="cpl/unselected_tokens",
        reduce_type=ReduceType.AVG,
    )
    chosen = selection.chosen
    margin = result.negative_divergence - result.positive_divergence
    stats_tracker.stat(
        **{
            "cpl/loss": at_selected(result.token_loss),
            "cpl/positive_divergence": at_selected(result.positive_divergence),
            "cpl/negative_divergence": at_selected(result.negative_divergence),
            "cpl/margin": at_selected(margin),
            "cpl/inverted_margin": at_selected(torch.relu(-margin)),
            "cpl/staleness_weight": at_selected(result.weights),
            "cpl/staleness_weight_squared": at_selected(result.weights.square()),
            "cpl/selected_anchor_entropy": at_selected(scores.anchor_entropy[chosen]),
            "cpl/selected_negative_entropy": at_selected(
                scores.negative_entropy[chosen]
            ),
            "cpl/selected_gain": at_selected(selection.gain[chosen]),
        },
        denominator="cpl/perception_tokens",
        reduce_type=ReduceType.AVG,
    )


def and_none(mask: torch.Tensor) -> torch.Tensor:
    """A mask with one more entry, false: the tracker refuses an empty one, and a rank's
    micro-batch may hold no response."""
    return torch.nn.functional.pad(mask, (0, 1))


def spread(
    like: torch.Tensor, index: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Values put at their positions of a row of zeros: fp32 `[T]`."""
    row = torch.zeros(like.shape, dtype=torch.float32, device=values.device)
    row[index] = values.detach().float()
    return row
