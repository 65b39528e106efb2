"""What ours is measured against: AReaL's actor, and the published CPPO on top of it."""

from __future__ import annotations

from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from transformers import AttentionInterface
from typing_extensions import override

from areal_cppo.core import (
    CPLConfig,
    PatchLayout,
    contrastive_perception_loss,
    entropy_gain,
    parse_perturbations,
    perturb_pixel_values,
    select_perception_tokens,
)
from areal_cppo.step.attention import Packing, packed_attention

_IMAGES = "multi_modal_input"  # AReaL's key
_KINDS = ("positive", "negative")

APART_ATTENTION = "areal_cppo_bench_apart"


def apart_attention(
    module, query, key, value, attention_mask, *, cu_seq_lens_q, scaling=None, **_
):
    """Attention within each sequence of a packed row, as flash-attention computes it.

    Parameters
    ----------
    module, query, key, value, attention_mask, scaling
        As transformers' layers call it: `[1, heads, T, size]`.
    cu_seq_lens_q
        Int `[sequences + 1]`: their bounds, which AReaL passes to the model.

    Returns
    -------
    tuple
        `[1, T, heads, size]`, and None in place of the weights.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    return packed_attention(
        module,
        query,
        key,
        value,
        attention_mask,
        packing=Packing(lengths, lengths, None, query.device),
        scaling=scaling,
    )


AttentionInterface.register(APART_ATTENTION, apart_attention)


class ApartActor(FSDPPPOActor):
    """The stock actor with sequences of a packed row kept apart under sdpa.

    Stock they attend to those before them: that is wrong, and costs attention over the
    whole row. Here attention is all that differs, so that what ours gains over this is
    no artefact of sdpa. (A block-diagonal mask would keep them apart, too, but a kernel
    that is given a mask computes all that it masks.) flash-attention keeps them apart
    by itself, and this is then the stock actor.
    """

    @override
    def forward_backward_batch(self, *args, **kwargs):
        text = self.model.model.language_model.config
        stock = text._attn_implementation
        if stock == "sdpa":
            text._attn_implementation = APART_ATTENTION
        try:
            super().forward_backward_batch(*args, **kwargs)
        finally:
            text._attn_implementation = stock


class PublishedActor(FSDPPPOActor):
    """The published CPPO (github.com/vbdi/cppo), read plainly, on the stock actor.

    Each micro-batch is run three times, anchor, negative view and positive view, with
    gradient and with logits of every token; each pass's log-probabilities and entropies
    are taken over the whole row, the anchor's a second time, after the policy loss. CPL
    is the mean over the micro-batch's selected tokens and joins the policy loss before
    that is scaled. Selection and divergence are those of the verl recipe (the better
    half, rounded down; k3). The views come with the batch: they were drawn when the
    data set was mapped, so that drawing them is no part of a step.
    """

    published = CPLConfig(divergence="k3", quota="floor")

    @override
    def _prepare_mb_list(self, input_: dict[str, Any]):
        mb_list = super()._prepare_mb_list(input_)
        if not self.model.training:
            return mb_list
        order = iter(mb_list.forward_indices)
        for mb in mb_list.mbs:
            rows = [next(order) for _ in range(mb["cu_seqlens"].numel() - 1)]
            for kind in _KINDS:
                views = [input_[_IMAGES][row][kind] for row in rows]
                mb[f"{kind}_view"] = torch.cat(views)
        return mb_list

    @override
    def _compute_logprobs_and_loss(
        self,
        logits,
        ctx,
        loss_fn,
        loss_weight_fn,
        total_loss_weight,
        loss_multiplier: float = 1.0,
    ) -> torch.Tensor:
        policy_loss = super()._compute_logprobs_and_loss(
            logits, ctx, loss_fn, loss_weight_fn, total_loss_weight, loss_multiplier
        )
        anchor, anchor_entropy = self._row_statistics(logits, ctx)
        negative, negative_entropy = self._view_statistics(ctx, "negative")
        positive, _ = self._view_statistics(ctx, "positive")
        mb, config = ctx.mb_input, self.published
        bounds = mb["cu_seqlens"]
        place = torch.arange(len(anchor), device=anchor.device)
        chosen = select_perception_tokens(
            entropy_gain(anchor_entropy.detach(), negative_entropy.detach()),
            mb["loss_mask"].bool() & (negative_entropy > anchor_entropy),
            torch.bucketize(place, bounds[1:], right=True),
            config.top_fraction,
            config.quota,
        )
        divergences = []
        for view in (positive, negative):
            ratio = anchor - view
            divergences.append(torch.exp(-ratio) - 1 + ratio)
        token_loss = contrastive_perception_loss(*divergences, config.tau)
        counted = chosen & (mb["advantages"] > 0)
        cpl = (token_loss * counted).sum() / counted.sum().clamp(min=1)
        scale = loss_weight_fn(mb) / total_loss_weight * loss_multiplier
        return policy_loss + config.coef * cpl * scale

    def _row_statistics(self, logits, ctx) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the row's tokens, padding left out."""
        statistics = self._compute_logprobs_entropy(logits, ctx.model_inputs)
        length = len(logits) - ctx.pad_length
        return tuple(tensor[:length] for tensor in statistics)

    def _view_statistics(self, ctx, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = ctx.mb_input[f"{kind}_view"]
        output = self.model(**ctx.model_inputs | {"pixel_values": pixels})
        return self._row_statistics(output.logits.squeeze(0), ctx)


def with_views(batch: list[dict], layout: PatchLayout, seed: int) -> list[dict]:
    """The batch with both views beside each image, for `PublishedActor`.

    Samples of one group have one image; its views are those of our actor at version 0.
    """
    items = []
    for item in batch:
        image = item[_IMAGES][0]
        views = {
            kind: perturb_pixel_values(
                image["pixel_values"],
                image["image_grid_thw"],
                layout,
                parse_perturbations(getattr(PublishedActor.published.views, kind)),
                kind=kind,
                run_seed=seed,
                policy_version=0,
            ).pixel_values
            for kind in _KINDS
        }
        items.append(item | {_IMAGES: [own | views for own in item[_IMAGES]]})
    return items
