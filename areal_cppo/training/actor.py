"""CPPO on AReaL's FSDP actor.

`CPPOActor` is AReaL's `FSDPPPOActor` with four hooks overridden: packed rows get their
attention mask (`_prepare_mb_inputs`), gated responses get micro-batches of their own
(`_prepare_mb_list`), those micro-batches add CPL to the policy loss
(`_compute_logprobs_and_loss`), and `train_batch` opens and closes one such step. Their
order in a step: gate and views, then packing, then per micro-batch the anchor's pass
(AReaL's), the negative view's, selection, policy loss, the positive view's, CPL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from areal.engine.core.model import is_qwen2_vl_model, is_qwen_vl_model
from areal.engine.fsdp_engine import FSDPPPOActor

from areal_cppo.core import PatchLayout
from areal_cppo.core.rows import tap_rows
from areal_cppo.qwen_positions import correct_image_positions
from areal_cppo.training.batch_stats import record_batch
from areal_cppo.training.config import CPPOActorConfig
from areal_cppo.training.groups import normalize_groups
from areal_cppo.training.meter import Meter
from areal_cppo.training.models import check_supported, mend_vision_model
from areal_cppo.training.packing import (
    IMAGES,
    VIEW_ROWS,
    PackedRow,
    add_missing_images,
    block_diagonal_causal_mask,
    fill_rows,
    gate_tokens,
    has_image,
    join_micro_batches,
    mark_view_rows,
    select_rows,
    with_image_grid,
)
from areal_cppo.training.perception import PerceptionLoss, nonfinite_tokens
from areal_cppo.training.perception_stats import record_gate, record_row
from areal_cppo.training.views import ResponseViews, ViewMaker, packed_view


@dataclass
class GatedBatch:
    """The gate's verdict on one optimiser step's batch, agreed on by all ranks."""

    rows: torch.Tensor  # bool [B]: this rank's responses that enter the view passes
    views: dict[int, ResponseViews]  # by row, at least of `rows`
    gated_rows: int  # most gated rows that any rank has
    other_rows: int  # most other rows that any rank has
    normalizer: int  # gated responses (or, later, perception tokens) of all ranks


class CPPOActor(FSDPPPOActor):
    """AReaL's FSDP actor with the Contrastive Perception Loss (arXiv 2601.00501)."""

    config: CPPOActorConfig

    def __init__(self, config: CPPOActorConfig):
        config.check_layout()
        correct_image_positions()
        super().__init__(config)
        check_supported(self.model_config.to_dict(), uses_cpl=config.uses_cpl)
        self._layout: PatchLayout | None = None  # of the images, if it is a Qwen-VL
        self._gated: GatedBatch | None = None  # set while train_batch runs with CPL
        self._perception: PerceptionLoss | None = None
        self._views: ViewMaker | None = None
        self._meter = Meter()

    def initialize(self, *args, **kwargs):
        super().initialize(*args, **kwargs)
        config = self.config
        mend_vision_model(self.model)
        if is_qwen_vl_model(self.model_config.model_type):
            processor = self.processor.image_processor
            self._layout = PatchLayout.from_image_processor(processor)
        if not config.uses_cpl:
            return
        self._views = ViewMaker(config.cpl.views, self._layout, config.view_seed)
        self._perception = PerceptionLoss(
            self.model,
            config.cpl,
            view_seed=config.view_seed,
            temperature=config.temperature,
            meter=self._meter,
        )

    def compute_advantages(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """AReaL's advantages; `data` has an item per group, of whatever size.

        The images are kept out: AReaL would copy those of the whole batch into every
        item that it returns.
        """
        data = [dict(item) for item in data]
        sizes = [item["rewards"].shape[0] for item in data]
        for name, config in (
            ("reward_norm", self.config.reward_norm),
            ("adv_norm", self.config.adv_norm),
        ):
            if config is not None:
                norm = partial(normalize_groups, sizes=sizes, config=config)
                setattr(self.actor, name, norm)
        images = [item.pop(IMAGES, None) for item in data]
        results = super().compute_advantages(data)
        for item, own in zip(results, images, strict=True):
            if own is not None:
                item[IMAGES] = own
        return results

    def ppo_update(self, data: list[dict[str, Any]]) -> None:
        """AReaL's update of one batch of trajectories, with its statistics recorded."""
        record_batch(data, self.get_version(), self.config.correct_reward)
        super().ppo_update(data)
        if self.config.uses_cpl:
            self._meter.flush(self.dp_group, self.device)

    def train_batch(self, input_, loss_fn, loss_weight_fn) -> dict[str, float]:
        """One optimiser step on policy loss and CPL.

        `input_` is AReaL's padded batch after `compute_advantages`.
        """
        batch, _ = self._normalize_batch_input(input_)
        if self.config.uses_cpl:
            gated = self._apply_gate(batch)
            self._gated = gated if gated.normalizer else None
        try:
            return super().train_batch(batch, loss_fn, loss_weight_fn)
        finally:
            self._gated = None

    def _apply_gate(self, batch: dict[str, Any]) -> GatedBatch:
        """Find the responses that enter the view passes, before any of them runs."""
        passed = gate_tokens(batch, self.config.cpl.gate).any(-1)
        image = has_image(batch)
        candidates = (passed & image).nonzero().flatten().tolist()
        with self._meter.time("perturb"):
            views = self._views(
                batch.get(IMAGES), candidates, self.get_version(), self.device
            )
        record_gate(passed, image, views)
        rows = torch.zeros_like(passed)
        rows[[row for row in candidates if views[row].usable]] = True
        counts = torch.tensor([rows.sum(), (~rows).sum()], device=self.device)
        most, total = counts.clone(), counts.clone()
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.dp_group)
        dist.all_reduce(total, group=self.dp_group)
        return GatedBatch(rows, views, *most.tolist(), normalizer=int(total[0]))

    def _prepare_mb_list(self, input_: dict[str, Any]):
        if self._gated is None:
            return self._packed(input_)
        gated = self._gated
        parts = []
        for rows, count in (
            (gated.rows, gated.gated_rows),
            (~gated.rows, gated.other_rows),
        ):
            if count:
                part = fill_rows(select_rows(input_, rows), self._packable(count))
                parts.append(self._packed(part))
        mark_view_rows(parts[0], gated.rows.nonzero().flatten().tolist())
        return join_micro_batches(*parts) if len(parts) > 1 else parts[0]

    def _packed(self, batch: dict[str, Any]):
        """AReaL's packing, with an image in each micro-batch of a model with vision."""
        if self._layout is None:
            return super()._prepare_mb_list(batch)
        mb_list = super()._prepare_mb_list(with_image_grid(batch))
        add_missing_images(mb_list, self._layout, self.model_config.image_token_id)
        return mb_list

    def _packable(self, count: int) -> int:
        """The least number of rows, `count` or more, that AReaL can cut as asked."""
        spec = self.config.mb_spec
        count = max(count, spec.n_mbs or 1, spec.n_mbs_divisor)
        return -(-count // spec.granularity) * spec.granularity

    def _prepare_mb_inputs(self, mb_item):
        inputs, ctx = super()._prepare_mb_inputs(mb_item)
        if self.config.attn_impl != "sdpa":
            return inputs, ctx
        length = inputs["input_ids"].shape[-1]
        if inputs["cu_seqlens"].numel() > 2:  # one sequence needs no mask of ours
            mask = block_diagonal_causal_mask(inputs["cu_seqlens"], length)
            if is_qwen2_vl_model(self.model_config.model_type):
                mask = {"full_attention": mask, "sliding_attention": mask}
            inputs["attention_mask"] = mask
        return inputs, ctx

    def forward_backward_batch(self, mb_list, process_output_fn, forward_only=False):
        if self._gated is not None and self.config.cpl.aggregation == "token":
            self._gated.normalizer = self._count_perception_tokens(mb_list)
        super().forward_backward_batch(mb_list, process_output_fn, forward_only)

    @torch.no_grad()
    def _count_perception_tokens(self, mb_list) -> int:
        """Perception tokens of all ranks: aggregation `token` divides by their number.

        It has to be known before the first backward pass, so the anchor's and the
        negative view's forward passes run once more.
        """
        count = torch.zeros((), dtype=torch.long, device=self.device)
        for mb_item in mb_list:
            if mb_item.orig_mb[VIEW_ROWS] is None:
                continue
            inputs, ctx = self._prepare_mb_inputs(mb_item)
            logits = self.model(**inputs).logits.squeeze(0)
            _, selection = self._select(logits, ctx)
            count += selection.chosen.sum()
        dist.all_reduce(count, group=self.dp_group)
        return max(1, int(count))

    def _view(self, ctx, kind: str) -> torch.Tensor:
        """Pixel values of a gated micro-batch seen through one view."""
        views = [self._gated.views[row] for row in ctx.mb_input[VIEW_ROWS]]
        return packed_view(views, kind, ctx.model_inputs["pixel_values"])

    def _select(self, logits: torch.Tensor, ctx):
        """The row of a gated micro-batch, and its perception tokens."""
        row = PackedRow.from_micro_batch(ctx.mb_input, self.config.cpl.gate)
        selection = self._perception.select(
            logits,
            ctx.model_inputs,
            row,
            self._view(ctx, "negative"),
            self.get_version(),
        )
        return row, selection

    def _compute_logprobs_and_loss(
        self,
        logits,
        ctx,
        loss_fn,
        loss_weight_fn,
        total_loss_weight,
        loss_multiplier: float = 1.0,
    ) -> torch.Tensor:
        gated = self._gated is not None and ctx.mb_input[VIEW_ROWS] is not None
        if gated:
            row, selection = self._select(logits, ctx)
            logits, anchor = tap_rows(logits, selection.positions)
        loss = super()._compute_logprobs_and_loss(
            logits, ctx, loss_fn, loss_weight_fn, total_loss_weight, loss_multiplier
        )
        if self.config.objective == "cpl":
            loss = logits[:0].sum()
        if not gated:
            return loss
        cpl, version = self.config.cpl, self.get_version()
        result = self._perception(
            anchor if "anchor" in cpl.grad else anchor.detach(),
            ctx.model_inputs,
            row,
            selection,
            self._view(ctx, "positive"),
            version=version,
            normalizer=self._gated.normalizer,
        )
        nonfinite = nonfinite_tokens(row, selection, result)
        skipped = self._on_any_rank(nonfinite.any())
        limit = cpl.staleness.max_staleness
        record_row(row, selection, result, nonfinite, skipped, limit, version)
        if skipped:
            self._meter.skipped()
            return loss
        self._meter.gains(selection.gain)
        return loss + cpl.coef * loss_multiplier * result.loss

    def _on_any_rank(self, flag: torch.Tensor) -> bool:
        """Whether `flag` holds on any rank: all keep a micro-batch or all leave it out.

        Not a number in a view's pass would reach the parameters even with a gradient of
        zero, and a rank that left its backward pass out would keep the others waiting.
        """
        flag = flag.to(device=self.device, dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.dp_group)
        return bool(flag)
