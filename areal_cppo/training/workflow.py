"""The rollout workflow: AReaL's vision workflow, with unusable responses refused."""

from __future__ import annotations

from typing import Any

import torch
from areal import workflow_context
from areal.utils import stats_tracker
from areal.utils.hf_utils import load_hf_processor_and_tokenizer
from areal.workflow.vision_rlvr import VisionRLVRWorkflow

from areal_cppo.training.rollout import REFUSED, VisionTokenSampled

VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


class CPPOWorkflow(VisionRLVRWorkflow):
    """AReaL's `VisionRLVRWorkflow` for CPPO.

    A response that contains a vision token can't be trained on: the model would look
    for an image behind it. Such a response is refused (`None` to AReaL, which keeps the
    rest of its group) and counted as `refused/vision_token`.
    """

    def __init__(
        self, reward_fn, gconfig, tokenizer, processor, enable_thinking: bool = False
    ):
        if isinstance(processor, str):  # AReaL's loader caches; its workflow's doesn't
            processor, _ = load_hf_processor_and_tokenizer(processor)
        super().__init__(reward_fn, gconfig, tokenizer, processor, enable_thinking)
        known = self.tokenizer.get_vocab()
        self._vision_ids = torch.tensor(
            [known[token] for token in VISION_TOKENS if token in known]
        )

    async def arun_episode(self, engine, data: dict[str, Any]):
        """One response: AReaL's trajectory dict with batch size 1, or `None`."""
        try:
            trajectory = await super().arun_episode(engine, data)
            response = trajectory["input_ids"][trajectory["loss_mask"] > 0]
            refused = bool(torch.isin(response, self._vision_ids).any())
        except VisionTokenSampled:  # at an interruption, see rollout.py
            refused = True
        stats = stats_tracker.get(workflow_context.stat_scope())
        stats.scalar(**{f"{REFUSED}vision_token": float(refused)})
        return None if refused else trajectory
