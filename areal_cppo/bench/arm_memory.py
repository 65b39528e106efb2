"""What arms of the comparison need of a GPU's memory, and which find too little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from areal.utils.data import N_TOKENS_PER_PAGE

from areal_cppo.bench.arms import Arm
from areal_cppo.bench.workload import Workload
from areal_cppo.config import memory
from areal_cppo.config.memory import GIB, gpu_bytes
from areal_cppo.config.models import ModelShape, count_parameters

_BF16, _FP32 = 2, 4  # bytes


def lacking_memory(
    arms: Sequence[Arm], workload: Workload, folder: Path, config: Any
) -> dict[str, str]:
    """Arms that the GPU has not the memory for, by letter: what they would take, what
    there is, and what makes them fit. Empty without a GPU."""
    card = gpu_bytes()
    if card is None:
        return {}
    shape = ModelShape.from_config(config.to_dict())
    parameters = count_parameters(str(folder))
    # Smaller micro-batches, in AReaL's pages, down to the longest sequence.
    page = N_TOKENS_PER_PAGE
    most, least = workload.max_tokens - 1, workload.longest
    fewer = range(most // page * page, -(-least // page) * page - 1, -page)
    views = False

    def need(arm: Arm, max_tokens: int) -> int:
        at = replace(workload, max_tokens=max_tokens)
        return sum(arm_memory(arm, at, shape, parameters, views).values())

    lacking = {}
    # First the one whose batch with views lies beside all others'.
    for arm in sorted(arms, key=lambda arm: not arm.published):
        views = views or arm.published
        needed = need(arm, workload.max_tokens)
        if needed <= card:
            continue
        found = next((n for n in fewer if need(arm, n) <= card), None)
        remedy = "take a smaller --model, or a larger GPU"
        if found is not None:
            remedy = f"set --max-tokens {found}"
        lacking[arm.letter] = (
            f"expected at least about {needed / GIB:.0f} GiB of GPU memory, found "
            f"{card / GIB:.1f}; {remedy}"
        )
        views = views and not arm.published
    return lacking


def arm_memory(
    arm: Arm, workload: Workload, shape: ModelShape, parameters: int, views: bool
) -> dict[str, int]:
    """What a GPU has to hold for an arm at worst, bytes by part.

    With the settings of `actors.Actors` on a GPU: fp32 weights, gradients and Adam's
    moments of one actor (the other one waits in the host's memory), bf16 to compute in.

    Parameters
    ----------
    arm, workload
        What is to be run.
    shape, parameters
        Of the model.
    views
        Whether the batch is there a second time, with the views of the published CPPO.
    """
    published, stock = arm.published, arm.stock is not None
    passes = 3 if published else 1
    if not stock and arm.objective == "cppo":
        passes = len({"anchor", *arm.grad})
    tokens = min(workload.max_tokens, workload.sequence_tokens)
    patches = _images_at_once(arm, workload) * workload.image_tokens * shape.merge**2
    if stock:
        logits = memory.stock_logits(shape, tokens, _BF16, published)
    elif "response_logits" in arm.off:
        logits = memory.whole_logits(shape, tokens, _BF16)
    else:
        logits = memory.chunked_logits(shape, tokens, _BF16)
    return {
        "weights, gradients, Adam": 4 * _FP32 * parameters,
        "pixels": _pixels(arm, workload, shape, views),
        "text activations": memory.text_activations(shape, tokens, passes, _BF16),
        "vision activations": memory.vision_activations(shape, patches, passes, _BF16),
        "views that are kept": min(arm.kept, 1)
        * (passes - 1)
        * (
            memory.text_activations(shape, tokens, 1, _BF16, False)
            + memory.vision_activations(shape, patches, 1, _BF16, False)
        ),
        "gathered weights": memory.gathered_weights(shape, _BF16),
        "gradients on their way": memory.reduced_gradients(shape, 1, _BF16, _FP32),
        "logits or a layer": max(
            logits,
            memory.text_layer(shape, tokens, _BF16),
            memory.vision_layer(shape, patches, _BF16),
        ),
        "CUDA and gaps": memory.CUDA,
    }


def _images_at_once(arm: Arm, workload: Workload) -> int:
    """Images that the tower gets in a micro-batch, at most."""
    sequences = min(workload.samples, max(1, workload.max_tokens // workload.shortest))
    if arm.stock is not None or "share_images" in arm.off:
        return sequences
    return min(workload.groups, sequences)


def _pixels(arm: Arm, workload: Workload, shape: ModelShape, views: bool) -> int:
    """Of the batch, with its views where they are there, and of what a step copies.

    AReaL's `compute_advantages` returns each group with a copy of the whole batch's
    images, and each micro-batch has another. The batch is on the GPU here, as AReaL
    has it, and so our views are there, too.
    """
    image, samples = shape.image_bytes(workload.image_tokens), workload.samples
    beside = image * samples * 3 * views
    if arm.stock is not None:
        branches = 3 if arm.published else 1
        return beside + image * samples * (1 + branches * (workload.groups + 1))
    kinds = 2 if arm.objective == "cppo" else 0
    together = _images_at_once(arm, workload)
    step = memory.step_pixels(image, together, views=kinds > 0)
    return beside + image * (samples + workload.groups * kinds) + step
