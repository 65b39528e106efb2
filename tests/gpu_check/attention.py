"""Step 2: attention in packed rows against a dense reference in fp64.

How far off bf16 is at best is what the same attention is off without any sharing: each
response in a sequence of its own, its prompt repeated. Shared prompts may be half as
far off again, in output and in all three gradients. The reference has a mask written by
hand; one that aligned the causal mask to the wrong corner has to be far away.

The vision tower's attention sees whole images or windows of them, all ways, with heads
of size 80; there the measure is torch's sdpa, image by image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional

from areal_cppo.step.attention import (
    SDPA,
    TORCH_FLASH,
    packed_attention,
    torch_flash_attention,
)
from tests.gpu_check.findings import Findings
from tests.gpu_check.layout import SharedRow, draw
from tests.gpu_check.setting import Setting, exact_fp32, relative

FACTOR = 1.5  # times the error of bf16 without sharing
WRONG_CORNER = 0.1  # how far, at least, the wrong reference is
NAMES = ("output", "dq", "dk", "dv")

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # to [T, H, E]


@dataclass(frozen=True)
class Sizes:
    """Of the text model's attention, and of the vision tower's."""

    heads: tuple[int, int]  # of queries, of keys
    size: int
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    vision_heads: int
    vision_size: int
    images: tuple[int, ...]  # patches of each
    windows: tuple[int, ...]


FULL = Sizes(
    heads=(16, 2),
    size=128,
    groups=(
        (700, (1, 2, 63, 128, 300, 517, 771, 900)),
        (33, (5, 200)),
        (129, (1,)),
    ),
    vision_heads=16,
    vision_size=80,
    images=(5120, 1024),
    windows=(64,) * 79 + (32, 16, 16) + (64,) * 16,
)
TINY = Sizes(
    heads=(4, 2),
    size=16,
    groups=((12, (1, 2, 7, 20)), (5, (3,))),
    vision_heads=2,
    vision_size=8,
    images=(24, 8),
    windows=(8, 8, 4, 4, 8),
)


def run(setting: Setting, findings: Findings) -> None:
    """Text, the wrong corner, vision."""
    sizes = TINY if setting.tiny else FULL
    worst = [_text(setting.device, sizes, findings)]
    for name in ("images", "windows"):
        worst.append(_vision(setting.device, sizes, name, findings))
    findings.say(
        f"errors at most {max(worst):.2f} x those of bf16 without sharing "
        f"(limit {FACTOR})"
    )


def _text(device: torch.device, sizes: Sizes, findings: Findings) -> float:
    row = SharedRow(sizes.groups, device)
    heads, key_heads = sizes.heads
    tensors = [
        draw(h, row.tokens, sizes.size, device, seed)
        for seed, h in enumerate((heads, key_heads, key_heads))
    ]
    wanted = draw(heads, row.tokens, sizes.size, device, 3)[0].transpose(0, 1)
    reference = dense(*tensors, row.mask(), wanted)
    errors = {}
    for name, attend in {
        "shared, torch_flash": shared(row, TORCH_FLASH),
        "shared, sdpa": shared(row, SDPA),
        "apart, torch_flash": apart(row, TORCH_FLASH),
        "apart, sdpa": apart(row, SDPA),
    }.items():
        errors[name] = _errors(forward_backward(attend, tensors, wanted), reference)
    summed = _summed_in_fp32(row, tensors, wanted)
    errors["apart, torch_flash, repeats summed in fp32"] = _errors(summed, reference)
    findings.figure(text_tokens=row.tokens, text_errors=errors)

    output = shared(row, TORCH_FLASH)(*tensors)
    wrong = dense(*tensors, row.mask(top_left=True), wanted)[0]
    responses = row.responses()
    findings.least(
        "text: distance from a mask aligned to the wrong corner",
        relative(output[responses], wrong[responses]),
        WRONG_CORNER,
    )
    apart_errors = [errors[f"apart, {kernel}"] for kernel in (TORCH_FLASH, SDPA)]
    best = {key: min(own[key] for own in apart_errors) for key in NAMES}
    return _compare("text", errors["shared, torch_flash"], best, findings)


def _compare(name: str, found: dict, best: dict, findings: Findings) -> float:
    ratios = {key: found[key] / best[key] for key in NAMES}
    for key, ratio in ratios.items():
        findings.most(
            f"{name}: error of {key} over that of bf16 at best", ratio, FACTOR
        )
    return max(ratios.values())


def shared(row: SharedRow, kernel: str) -> Attend:
    """Attention of a row whose responses share their prompts' keys."""
    packing = row.packing(kernel)

    def attend(*tensors: Tensor) -> Tensor:
        return packed_attention(None, *tensors, None, packing=packing)[0][0]

    return attend


def apart(row: SharedRow, kernel: str) -> Attend:
    """The same with each response in a sequence of its own, prompts repeated."""
    packing = row.apart(kernel)

    def attend(*tensors: Tensor) -> Tensor:
        repeated = (x.index_select(2, row.repeated) for x in tensors)
        output = packed_attention(None, *repeated, None, packing=packing)[0][0]
        return output.index_select(0, row.first)

    return attend


def _summed_in_fp32(
    row: SharedRow, tensors: list[Tensor], wanted: Tensor
) -> tuple[Tensor, ...]:
    """As apart, but a token's gradients are added up in fp32, not in bf16."""
    repeated = [x.index_select(2, row.repeated) for x in tensors]
    packing = row.apart(TORCH_FLASH)

    def attend(*tensors: Tensor) -> Tensor:
        output = packed_attention(None, *tensors, None, packing=packing)[0][0]
        return output.index_select(0, row.first)

    output, *gradients = forward_backward(attend, repeated, wanted)
    sums = []
    for gradient, like in zip(gradients, tensors, strict=True):
        total = torch.zeros_like(like, dtype=torch.float32)
        sums.append(total.index_add_(2, row.repeated, gradient.float()))
    return output, *sums


def forward_backward(
    attend: Attend, tensors: list[Tensor], wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output `[T, H, E]` and the gradients of its product with `wanted`."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    output = attend(*leaves)
    return output.detach(), *torch.autograd.grad(output, leaves, wanted)


def dense(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, wanted: Tensor
) -> tuple[Tensor, ...]:
    """Masked softmax in fp64, a head at a time; as `forward_backward`."""
    groups = query.shape[1] // key.shape[1]
    output = torch.empty(wanted.shape, dtype=torch.float64, device=query.device)
    sums = [torch.zeros_like(x, dtype=torch.float64) for x in (query, key, value)]
    for head in range(query.shape[1]):
        at = (head, head // groups, head // groups)
        leaves = [
            x[0, h].double().requires_grad_()
            for x, h in zip((query, key, value), at, strict=True)
        ]
        q, k, v = leaves
        scores = (q @ k.T) * q.shape[-1] ** -0.5
        attended = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        output[:, head] = attended.detach()
        gradients = torch.autograd.grad(attended, leaves, wanted[:, head].double())
        for total, h, gradient in zip(sums, at, gradients, strict=True):
            total[0, h] += gradient
    return output, *sums


def _errors(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> dict:
    pairs = zip(NAMES, found, expected, strict=True)
    return {name: relative(x, y) for name, x, y in pairs}


def _vision(device: torch.device, sizes: Sizes, name: str, findings: Findings) -> float:
    lengths = getattr(sizes, name)
    tokens = sum(lengths)
    tensors = [
        draw(sizes.vision_heads, tokens, sizes.vision_size, device, seed)
        for seed in range(3)
    ]
    wanted = draw(sizes.vision_heads, tokens, sizes.vision_size, device, 3)
    wanted = wanted[0].transpose(0, 1)
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    layer = SimpleNamespace(is_causal=False)

    def flash(*tensors: Tensor) -> Tensor:
        return torch_flash_attention(
            layer, *tensors, None, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds
        )[0][0]

    def sdpa(*tensors: Tensor) -> Tensor:
        pieces = zip(*(x.split(lengths, 2) for x in tensors), strict=True)
        outputs = [functional.scaled_dot_product_attention(*x) for x in pieces]
        return torch.cat(outputs, 2)[0].transpose(0, 1)

    with exact_fp32():
        reference = _by_image(tensors, wanted, lengths)
    errors = {
        kind: _errors(forward_backward(attend, tensors, wanted), reference)
        for kind, attend in (("torch_flash", flash), ("sdpa", sdpa))
    }
    findings.figure(**{f"vision_{name}_errors": errors})
    return _compare(f"vision, {name}", errors["torch_flash"], errors["sdpa"], findings)


def _by_image(
    tensors: list[Tensor], wanted: Tensor, lengths: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """The dense reference of sequences that see all of themselves."""
    parts, at = [], 0
    for length in lengths:
        piece = slice(at, at + length)
        mask = torch.ones(length, length, dtype=torch.bool, device=wanted.device)
        own = (x[:, :, piece] for x in tensors)
        parts.append(dense(*own, mask, wanted[piece]))
        at += length
    output, *gradients = zip(*parts, strict=True)
    return torch.cat(output), *(torch.cat(g, 2) for g in gradients)
