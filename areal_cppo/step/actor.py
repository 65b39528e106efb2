"""CPPO on AReaL's FSDP actor.

`CPPOActor` is AReaL's `FSDPPPOActor` with its own packing (`micro_batches.py`) and its
own forward passes (`passes.py`) for the vision models that CPPO trains; advantages, the
policy loss, the optimiser and all else are AReaL's. What `actor.objective` adds to the
policy loss is in `objectives/`. The order in a step: gate and views, then packing, then
per micro-batch the views' passes and the anchor's, in which they are compared, then
policy loss and the objective's own, then one backward pass. Text models go AReaL's own
way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils import stats_tracker
from areal.utils.perf_tracer import trace_scope
from torch.distributed.tensor import DTensor

from areal_cppo.config.experiment import CPPOActorConfig
from areal_cppo.config.models import VISION_MODELS, check_supported
from areal_cppo.core import PatchLayout
from areal_cppo.patches.qwen_positions import correct_image_positions
from areal_cppo.step.attention import SDPA, TORCH_FLASH, use_torch_flash
from areal_cppo.step.batch_stats import record_batch
from areal_cppo.step.batches import prepare_batch, row_style
from areal_cppo.step.groups import normalize_groups
from areal_cppo.step.meter import Meter
from areal_cppo.step.micro_batches import NEEDED, PASSES, Packer, needed_tokens
from areal_cppo.step.objectives import start_step
from areal_cppo.step.objectives.base import ObjectiveStep, Output, Parts
from areal_cppo.step.packing import IMAGES, block_diagonal_causal_mask
from areal_cppo.step.passes import ModelPasses
from areal_cppo.step.rank_state import load_rank, save_rank
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.tap import ModelTap


class CPPOActor(FSDPPPOActor):
    """AReaL's FSDP actor with CPPO (arXiv 2601.00501) and what it is compared with."""

    config: CPPOActorConfig

    def __init__(self, config: CPPOActorConfig):
        config.check_layout()
        correct_image_positions()
        super().__init__(config)
        check_supported(
            self.model_config.to_dict(),
            uses_views=config.uses_views,
            backend=config.backend,
            tree_training=config.enable_tree_training,
        )
        # A text model, which goes AReaL's own way, has no passes of ours.
        self._passes: ModelPasses | None = None
        # Set while train_batch runs, if the objective has something to add.
        self._step: ObjectiveStep | None = None
        self._meter = Meter()

    def initialize(self, *args, **kwargs):
        super().initialize(*args, **kwargs)
        config = self.config
        if self.model_config.model_type not in VISION_MODELS:
            return
        tap = ModelTap(self.model)
        self._layout = PatchLayout.from_image_processor(self.processor.image_processor)
        self._passes = ModelPasses(tap, config.temperature, config.speed, self._meter)

    def _create_device_model(self):
        """AReaL's; torch's flash-attention comes after loading, which can't name it."""
        kernel = self.config.attn_impl
        if kernel != TORCH_FLASH:
            return super()._create_device_model()
        self.config.attn_impl = SDPA
        try:
            super()._create_device_model()
        finally:
            self.config.attn_impl = kernel
        return use_torch_flash(self.model)

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
        record_batch(
            data,
            self.get_version(),
            self.config.correct_reward,
            self.config.max_new_tokens,
        )
        super().ppo_update(data)
        if self.config.uses_views:
            self._meter.flush(self.dp_group, self.device, cpl=self.config.uses_cpl)

    def save_training_state(self, folder: str) -> None:
        """Write all that is needed to go on; all ranks together."""
        save_rank(self, folder)

    def load_training_state(self, folder: str) -> None:
        """Go on from what `save_training_state` wrote; all ranks together."""
        load_rank(self, folder)

    def _get_full_tensor(self, param: torch.nn.Parameter) -> torch.Tensor:
        """A whole parameter, as it is sent to the servers; all ranks call it.

        AReaL's takes the shards of one that lies on the CPU (as all do without a GPU,
        and with `fsdp.offload_params`) to be of equal size.
        """
        tensor = param.data
        if not isinstance(tensor, DTensor) or tensor.device.type != "cpu":
            return super()._get_full_tensor(param)
        return DTensor.from_local(
            tensor.to_local().to(self.device),
            tensor.device_mesh,
            tensor.placements,
            shape=tensor.shape,
            stride=tensor.stride(),
        ).full_tensor()

    def train_batch(self, input_, loss_fn, loss_weight_fn) -> dict[str, float]:
        """One optimiser step on the policy loss and what the objective adds.

        `input_` is AReaL's padded batch after `compute_advantages`.
        """
        batch, _ = self._normalize_batch_input(input_)
        if self._passes is not None:
            needed = needed_tokens(batch["loss_mask"], shifted=True)
            batch = {**batch, NEEDED: needed}
            self._step = start_step(self._parts(), batch)
        if self.config.reuses_proximal:
            loss_fn = partial(_with_own_proximal, loss_fn)
        try:
            return super().train_batch(batch, loss_fn, loss_weight_fn)
        finally:
            self._step = None

    def _parts(self) -> Parts:
        return Parts(
            self.config,
            self._passes,
            self._layout,
            self._meter,
            Ranks(self.dp_group, self.device),
            self.get_version(),
        )

    def forward_batch(self, input_, *args, **kwargs):
        """AReaL's log-probs of a batch or of a list of trajectories, 0 where a token
        has no loss. `loss_mask` is as rollout makes it."""
        if self._passes is not None:
            items = input_ if isinstance(input_, list) else [input_]
            items = [
                {**item, NEEDED: needed_tokens(item["loss_mask"], shifted=False)}
                for item in items
            ]
            input_ = items if isinstance(input_, list) else items[0]
        return super().forward_batch(input_, *args, **kwargs)

    def _prepare_mb_list(self, input_: dict[str, Any]):
        if self._passes is None:
            return super()._prepare_mb_list(input_)
        gated = None if self._step is None else self._step.gated
        config = self.config
        data, batch = prepare_batch(
            input_,
            None if gated is None else gated.sets,
            self._passes.tap.positions,
            self.device,
        )
        packer = Packer(
            config.mb_spec,
            row_style(config, self.model_config, self._layout, self.device),
            config.speed.share_prompts,
            self.dp_group,
        )
        return packer(data, batch, () if gated is None else gated.entering)

    def _prepare_mb_inputs(self, mb_item):
        inputs, ctx = super()._prepare_mb_inputs(mb_item)
        if self._passes is not None or self.config.attn_impl != "sdpa":
            return inputs, ctx
        length = inputs["input_ids"].shape[-1]
        if inputs["cu_seqlens"].numel() > 2:  # one sequence needs no mask of ours
            mask = block_diagonal_causal_mask(inputs["cu_seqlens"], length)
            inputs["attention_mask"] = mask
        return inputs, ctx

    def forward_backward_batch(self, mb_list, process_output_fn, forward_only=False):
        if self._passes is None:
            return super().forward_backward_batch(
                mb_list, process_output_fn, forward_only
            )
        if self._step is not None:
            self._step.prepare(mb_list.mbs)
        for mb_item in mb_list:
            _, ctx = self._prepare_mb_inputs(mb_item)
            with trace_scope("fsdp_engine.forward"):
                output = self._run(ctx.mb_input)
            loss = process_output_fn(output, ctx.to_dict())
            if not forward_only:
                with trace_scope("fsdp_engine.backward"):
                    loss.backward()

    def _run(self, mb: dict[str, Any]) -> Output:
        if mb[PASSES].view is not None:
            return self._step.run(mb)
        statistics, _ = self._passes.anchor(mb[PASSES], mb)
        return Output(statistics)

    def _compute_forward_result(self, output, ctx):
        if self._passes is None:
            return super()._compute_forward_result(output, ctx)
        return _spread(output.statistics.logprobs, ctx.mb_input)

    def _compute_logprobs_and_loss(
        self,
        output,
        ctx,
        loss_fn,
        loss_weight_fn,
        total_loss_weight,
        loss_multiplier: float = 1.0,
    ) -> torch.Tensor:
        if self._passes is None:
            return super()._compute_logprobs_and_loss(
                output, ctx, loss_fn, loss_weight_fn, total_loss_weight, loss_multiplier
            )
        mb, statistics = ctx.mb_input, output.statistics
        logprobs = _spread(statistics.logprobs, mb)
        weight = loss_weight_fn(mb)
        loss = statistics.logprobs.sum() * 0.0  # connected, on all ranks
        if weight:
            entropy = _spread(statistics.entropy, mb)
            policy = loss_fn(logprobs, entropy, mb)
            stats_tracker.stat(
                vocab_min_logits=_spread(statistics.lowest, mb),
                vocab_max_logits=_spread(statistics.highest, mb),
                denominator="n_valid_tokens",
            )
            if self.config.objective != "cpl":
                loss = policy * (weight / total_loss_weight * loss_multiplier)
        if output.views is None:
            return loss
        return self._step.add(loss, output, logprobs, loss_multiplier)


def _with_own_proximal(loss_fn, logprobs, entropy, mb, **kwargs) -> torch.Tensor:
    """AReaL's loss; where no proximal log-probs are given, they are its own input."""
    mb.setdefault("prox_logp", logprobs.detach())
    return loss_fn(logprobs, entropy, mb, **kwargs)


def _spread(values: torch.Tensor, mb: dict[str, Any]) -> torch.Tensor:
    """Values `[N]` of the needed tokens among all tokens of a micro-batch: fp32 `[L]`,
    0 elsewhere."""
    row = torch.zeros(len(mb["input_ids"]), dtype=torch.float32, device=values.device)
    return row.index_copy(0, mb[PASSES].needed, values)
