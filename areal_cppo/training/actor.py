"""CPPO on AReaL's FSDP actor.

`CPPOActor` is AReaL's `FSDPPPOActor` with four hooks overridden: packed rows get their
attention mask (`_prepare_mb_inputs`), gated responses get micro-batches of their own
(`_prepare_mb_list`), those micro-batches add CPL to the policy loss
(`_compute_logprobs_and_loss`), and `train_batch` opens and closes one such step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from areal.engine.core.model import is_qwen2_vl_model
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils import stats_tracker

from areal_cppo.core import PatchLayout
from areal_cppo.qwen_positions import correct_image_positions
from areal_cppo.training.batch_stats import record_batch
from areal_cppo.training.config import CPPOActorConfig
from areal_cppo.training.groups import normalize_groups
from areal_cppo.training.packing import (
    GATED,
    IMAGES,
    block_diagonal_causal_mask,
    fill_rows,
    gate_tokens,
    has_image,
    join_micro_batches,
    select_rows,
)
from areal_cppo.training.perception import PackedRow, PerceptionLoss


@dataclass
class GatedBatch:
    """The gate's verdict on one optimiser step's batch, agreed on by all ranks."""

    rows: torch.Tensor  # bool [B]: this rank's responses that enter the view passes
    gated_rows: int  # most gated rows that any rank has
    other_rows: int  # most other rows that any rank has
    normalizer: int  # gated responses (or, later, selected tokens) of all ranks


class CPPOActor(FSDPPPOActor):
    """AReaL's FSDP actor with the Contrastive Perception Loss (arXiv 2601.00501)."""

    config: CPPOActorConfig

    def __init__(self, config: CPPOActorConfig):
        config.check_layout()
        correct_image_positions()
        super().__init__(config)
        self._gated: GatedBatch | None = None  # set while train_batch runs with CPL
        self._perception: PerceptionLoss | None = None

    def initialize(self, *args, **kwargs):
        super().initialize(*args, **kwargs)
        if not self.config.uses_cpl:
            return
        self.config.check_model_type(self.model_config.model_type)
        self._perception = PerceptionLoss(
            self.model,
            self.config.cpl,
            PatchLayout.from_image_processor(self.processor.image_processor),
            view_seed=self.config.view_seed,
            temperature=self.config.temperature,
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

    def train_batch(self, input_, loss_fn, loss_weight_fn) -> dict[str, float]:
        """One optimiser step on policy loss and CPL.

        `input_` is AReaL's padded batch after `compute_advantages`.
        """
        batch, _ = self._normalize_batch_input(input_)
        if self.config.uses_cpl:
            n_rows = batch["input_ids"].shape[0]
            batch.setdefault(IMAGES, [{} for _ in range(n_rows)])
            gated = self._apply_gate(batch)
            self._gated = gated if gated.normalizer else None
        try:
            return super().train_batch(batch, loss_fn, loss_weight_fn)
        finally:
            self._gated = None

    def _apply_gate(self, batch: dict[str, Any]) -> GatedBatch:
        """Find the responses that enter the view passes, before any of them runs."""
        gate = gate_tokens(batch, self.config.cpl.gate)
        rows = gate.any(-1) & has_image(batch).to(gate.device)
        stats_tracker.denominator(**{"cpl/gated_responses": rows})
        counts = torch.tensor([rows.sum(), (~rows).sum()], device=self.device)
        most, total = counts.clone(), counts.clone()
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.dp_group)
        dist.all_reduce(total, group=self.dp_group)
        return GatedBatch(rows, *most.tolist(), normalizer=int(total[0]))

    def _prepare_mb_list(self, input_: dict[str, Any]):
        if self._gated is None:
            return super()._prepare_mb_list(input_)
        gated = self._gated
        parts = []
        for rows, count in (
            (gated.rows, gated.gated_rows),
            (~gated.rows, gated.other_rows),
        ):
            if count:
                count = self._packable(count)
                part = fill_rows(select_rows(input_, rows), count, self.model_config)
                parts.append(super()._prepare_mb_list(part))
        return join_micro_batches(parts[0], parts[1] if len(parts) > 1 else None)

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
        """Selected tokens of all ranks: aggregation `token` divides by their number.

        It has to be known before the first backward pass, so the anchor's and the
        negative view's forward passes run once more.
        """
        count = torch.zeros((), dtype=torch.long, device=self.device)
        with stats_tracker.scope("count"):
            for mb_item in mb_list:
                if not mb_item.orig_mb[GATED]:
                    continue
                inputs, ctx = self._prepare_mb_inputs(mb_item)
                row = PackedRow.from_micro_batch(ctx.mb_input, self.config.cpl.gate)
                logits = self.model(**inputs).logits.squeeze(0)
                selected, _ = self._perception.select(
                    logits[: row.gate.numel()], inputs, row, self.get_version()
                )
                count += selected.numel()
        dist.all_reduce(count, group=self.dp_group)
        return max(1, int(count))

    def _compute_logprobs_and_loss(
        self,
        logits,
        ctx,
        loss_fn,
        loss_weight_fn,
        total_loss_weight,
        loss_multiplier: float = 1.0,
    ) -> torch.Tensor:
        loss = super()._compute_logprobs_and_loss(
            logits, ctx, loss_fn, loss_weight_fn, total_loss_weight, loss_multiplier
        )
        if self.config.objective == "cpl":
            loss = loss * 0.0
        if self._gated is None or not ctx.mb_input[GATED]:
            return loss
        row = PackedRow.from_micro_batch(ctx.mb_input, self.config.cpl.gate)
        perception_loss = self._perception(
            logits[: row.gate.numel()],
            ctx.model_inputs,
            row,
            version=self.get_version(),
            normalizer=self._gated.normalizer,
        )
        return loss + self.config.cpl.coef * loss_multiplier * perception_loss
