"""CPPO on AReaL's FSDP actor.

`CPPOActor` is AReaL's `FSDPPPOActor` with its own optimiser step (`update.py`) for the
vision models that CPPO trains. What `actor.objective` adds to the policy loss is in
`objectives/`. Text models go AReaL's own way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils.data import concat_batch, split_batch, tensor_container_to
from torch.distributed.tensor import DTensor
from typing_extensions import override

from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.models import VISION_MODELS, check_supported
from areal_cppo.core import PatchLayout
from areal_cppo.patches.areal import set_numa_affinity
from areal_cppo.patches.contracts import check_upstream
from areal_cppo.patches.transformers import correct_image_positions
from areal_cppo.patches.version import normalizes_groups
from areal_cppo.step.advantages import normalize_groups
from areal_cppo.step.attention import (
    SDPA,
    TORCH_FLASH,
    use_torch_flash,
)
from areal_cppo.step.batch import IMAGES, with_images
from areal_cppo.step.controller import CPPOActorController
from areal_cppo.step.divisor import count_responses, over_longest
from areal_cppo.step.draw import draw_from_group
from areal_cppo.step.metrics import Meter, record_batch
from areal_cppo.step.minibatches import minibatches
from areal_cppo.step.model import Model
from areal_cppo.step.objectives.base import Parts, begin_views, objective_of
from areal_cppo.step.pack import Packer
from areal_cppo.step.rank_state import load_rank, save_rank
from areal_cppo.step.ranks import Ranks
from areal_cppo.step.rows import RowStyle
from areal_cppo.step.samples import SampleKeeper
from areal_cppo.step.update import optimizer_step, response_logprobs
from areal_cppo.step.views import Workshop


class CPPOActor(FSDPPPOActor):
    """AReaL's FSDP actor with CPPO (arXiv 2601.00501) and what it is compared with."""

    config: CPPOActorConfig

    def __init__(self, config: CPPOActorConfig):
        config.check_layout()
        correct_image_positions()
        set_numa_affinity()
        super().__init__(config)
        check_supported(
            self.model_config.to_dict(),
            uses_views=config.uses_views,
            backend=config.backend,
            tree_training=config.enable_tree_training,
        )
        # A text model, which goes AReaL's own way, has no passes of ours.
        self._model: Model | None = None
        self._meter = Meter()
        self._workshop = Workshop()
        self._samples: SampleKeeper | None = None

    @classmethod
    @override
    def as_controller(cls, config: CPPOActorConfig, scheduler):
        return CPPOActorController(cls, config=config, scheduler=scheduler)

    @override
    def initialize(self, *args, **kwargs):
        check_upstream()
        super().initialize(*args, **kwargs)
        if self.model_config.model_type in VISION_MODELS:
            self._model = Model(self.model, self.config.temperature)

    @override
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

    @override
    def compute_logp(self, data: list[dict[str, Any]]) -> list[torch.Tensor]:
        """AReaL's log-probs of a batch; `data` has an item per group."""
        return super().compute_logp(self._received(data))

    def compute_advantages_only(
        self, data: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """`compute_advantages` without the images, for a caller that has them."""
        results = self.compute_advantages(data)
        for item in results:
            item.pop(IMAGES, None)
        return results

    @override
    def compute_advantages(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """AReaL's advantages; `data` has an item per group, of whatever size.

        The images are kept out: AReaL would copy those of the whole batch into every
        item that it returns. Their views are begun.
        """
        data = self._received(data)
        if not normalizes_groups():
            self._normalize_groups([item["rewards"].shape[0] for item in data])
        images = [item.pop(IMAGES, None) for item in data]
        # As judged, for the metrics: AReaL takes its penalty for length off in place.
        rewards = [item["rewards"].clone() for item in data]
        results = super().compute_advantages(data)
        for item, own, judged in zip(results, images, rewards, strict=True):
            item["rewards"] = judged
            if own is not None:
                item[IMAGES] = own
        self._workshop.clear()
        if self._model is not None:
            begin_views(self._parts(), results)
        return results

    def _normalize_groups(self, sizes: list[int]) -> None:
        """Have AReaL's actor normalise groups of these sizes."""
        for name, config in (
            ("reward_norm", self.config.reward_norm),
            ("adv_norm", self.config.adv_norm),
        ):
            if config is not None:
                norm = partial(normalize_groups, sizes=sizes, config=config)
                setattr(self.actor, name, norm)

    @override
    def ppo_update(self, data: list[dict[str, Any]]) -> None:
        """AReaL's update of one batch of trajectories, with its statistics recorded.

        Once for each mini-batch of whole groups: AReaL's own would cut them up.
        """
        config, version, samples = self.config, self.get_version(), self._samples
        data = self._received(data)
        record_batch(data, version, config.correct_reward, config.max_new_tokens)
        if samples is not None:
            data = samples.choose(data, version, self._layout)
        data = self._drawn(data, version)
        wanted, shared = config.ppo_n_minibatches, self._shares_prompts
        divided = minibatches(data, wanted, self._ranks, share_prompts=shared)
        config.ppo_n_minibatches = 1
        try:
            with self._meter.time("inside"):
                for groups in divided:
                    super().ppo_update(groups)
        finally:
            config.ppo_n_minibatches = wanted
        self._workshop.clear()
        if samples is not None:
            samples.write(version)
        self._meter.flush(self._ranks, cpl=config.uses_cpl)

    def _drawn(self, data: list[dict[str, Any]], version: int) -> list[dict[str, Any]]:
        """Groups, of which some responses are compared if the objective says so."""
        config, most = self.config, self.config.view_responses
        if most is None:
            return data
        gate, seed = objective_of(config).gate_of(config), config.view_seed
        return [draw_from_group(group, gate, most, seed, version) for group in data]

    @override
    def train_batch(self, input_, loss_fn, loss_weight_fn) -> dict[str, float]:
        """One optimiser step on the policy loss and what the objective adds.

        `input_` is AReaL's batch after `compute_advantages`, padded or a list.
        """
        if self.config.loss_divisor == "max_tokens":
            loss_fn = partial(over_longest, loss_fn, self.config.max_new_tokens)
            loss_weight_fn = count_responses
        if self._model is None:
            if self.config.reuses_proximal:
                loss_fn = partial(_with_own_proximal, loss_fn)
            return super().train_batch(input_, loss_fn, loss_weight_fn)
        self._ensure_ready()
        padded = concat_batch(input_)[0] if isinstance(input_, list) else input_
        return optimizer_step(self, self._parts(), padded, loss_fn, loss_weight_fn)

    @override
    def forward_batch(self, input_, *args, **kwargs):
        """AReaL's log-probs of a batch or of a list of trajectories, 0 where a token
        has no loss. `loss_mask` is as rollout makes it."""
        if self._model is None:
            return super().forward_batch(input_, *args, **kwargs)
        self._ensure_ready()
        if not isinstance(input_, list):
            return response_logprobs(self._parts(), input_)
        padded, meta = concat_batch(input_)
        return split_batch(response_logprobs(self._parts(), padded), meta)

    def keep_samples(self, folder: str, every: int, last: int, responses: int) -> None:
        """Write some responses into a folder, to be read (`has_samples`: when)."""
        rank, ranks = self.data_parallel_rank, self.data_parallel_world_size
        if self.is_data_parallel_head():  # the others of its group have the same
            self._samples = SampleKeeper(folder, every, last, responses, rank, ranks)

    def save_training_state(self, folder: str) -> None:
        """Write all that is needed to go on; all ranks together."""
        save_rank(self, folder)

    def load_training_state(self, folder: str) -> None:
        """Go on from what `save_training_state` wrote; all ranks together."""
        load_rank(self, folder)

    @override
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

    @override
    def _prepare_mb_inputs(self, mb_item):
        """AReaL's, with the mask of a text model's packed row under sdpa."""
        inputs, ctx = super()._prepare_mb_inputs(mb_item)
        bounds = inputs.get("cu_seqlens")
        # One sequence needs no mask of ours.
        if self.config.attn_impl == SDPA and bounds.numel() > 2:
            length = inputs["input_ids"].shape[-1]
            inputs["attention_mask"] = block_diagonal_causal_mask(bounds, length)
        return inputs, ctx

    def _received(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch as it was handed over: each response has its images, where they are,
        and all else is on the model's device."""
        items = []
        for item in map(with_images, data):
            others = {key: item[key] for key in item if key != IMAGES}
            items.append(item | tensor_container_to(others, self.device))
        return items

    @property
    def _shares_prompts(self) -> bool:
        """AReaL's passes of a text model share nothing."""
        return self._model is not None and self.config.speed.share_prompts

    @property
    def _ranks(self) -> Ranks:
        return Ranks(self.dp_group, self.device)

    @property
    def _layout(self) -> PatchLayout | None:
        """Of images; None: the model takes none."""
        if self._model is None:
            return None
        return PatchLayout.from_image_processor(self.processor.image_processor)

    def _parts(self) -> Parts:
        """Read anew each time: some settings may be changed between steps."""
        config, ranks = self.config, self._ranks
        layout = self._layout
        style = RowStyle.of(config, self.model_config, layout, self.device)
        pack = Packer(config.mb_spec, style, self._shares_prompts, ranks)
        workshop, version = self._workshop, self.get_version()
        return Parts(
            *(config, self._model, layout, pack, self._meter, workshop, ranks, version)
        )


def _with_own_proximal(loss_fn, logprobs, entropy, mb, **kwargs) -> torch.Tensor:
    """AReaL's loss; where no proximal log-probs are given, they are its own input."""
    mb.setdefault("prox_logp", logprobs.detach())
    return loss_fn(logprobs, entropy, mb, **kwargs)


def block_diagonal_causal_mask(cu_seqlens: torch.Tensor, length: int) -> torch.Tensor:
    """Attention mask of a packed row: causal, and within one sequence only.

    For text models, which AReaL runs: it leaves it to flash-attention's `cu_seqlens` to
    keep the sequences of a row apart, and under sdpa nothing does.

    Parameters
    ----------
    cu_seqlens
        Int `[n_sequences + 1]`, boundaries of the sequences, from 0 to `length`.
    length
        Tokens in the row.

    Returns
    -------
    Tensor
        Bool `[1, 1, length, length]`; true where a query (third axis) may see a key
        (fourth).
    """
    position = torch.arange(length, device=cu_seqlens.device)
    segment = torch.bucketize(position, cu_seqlens[1:].long(), right=True)
    same_sequence = segment[:, None] == segment[None, :]
    not_later = position[:, None] >= position[None, :]
    return (same_sequence & not_later)[None, None]
