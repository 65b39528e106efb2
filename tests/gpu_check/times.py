"""Step 3: what attention costs, and the backward pass of shared keys alone.

Keys and values of a shared prompt are repeated by `index_select`, whose gradient adds
them up again by atomic additions in bf16: in no fixed order, and rounded each time.
Beside it stands a sum per prompt in fp32, in plain torch, which is what a kernel of
our own would be worth writing for. Figures only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from areal_cppo.config import SDPA, TORCH_FLASH
from tests.gpu_check.attention import apart, forward_backward, shared
from tests.gpu_check.findings import Findings
from tests.gpu_check.layout import SharedRow, draw
from tests.gpu_check.setting import Setting, milliseconds, relative


@dataclass(frozen=True)
class Sizes:
    """Of the text model's attention; rows by name: groups of prompt and responses."""

    heads: tuple[int, int]
    size: int
    layers: int
    rows: dict[str, tuple[tuple[int, tuple[int, ...]], ...]]


# Geometry3K: an image of 256 tokens and 150 of text, eight responses of about 400.
_SPREAD = (300, 330, 360, 390, 410, 440, 470, 500)
FULL = Sizes(
    heads=(16, 2),
    size=128,
    layers=36,
    rows={
        "2 groups of 8 responses of 400 tokens": ((408, _SPREAD),) * 2,
        "8 groups of 8 responses of 77 tokens": ((408, (77,) * 8),) * 8,
    },
)
TINY = Sizes((4, 2), 16, 2, {"2 small groups": ((9, (3, 4, 5)),) * 2})


def run(setting: Setting, findings: Findings) -> None:
    """Each row by itself."""
    sizes = TINY if setting.tiny else FULL
    shares = []
    for name, groups in sizes.rows.items():
        figures = _row(setting, sizes, SharedRow(groups, setting.device))
        findings.figure(**{name: figures})
        shares.append(figures["index_add_share_of_attention"])
    findings.say(
        f"index_add is {min(shares):.0%} to {max(shares):.0%} of attention's time"
    )


def _row(setting: Setting, sizes: Sizes, row: SharedRow) -> dict:
    device = setting.device
    heads, key_heads = sizes.heads
    tensors = [
        draw(h, row.tokens, sizes.size, device, seed)
        for seed, h in enumerate((heads, key_heads, key_heads))
    ]
    wanted = draw(heads, row.tokens, sizes.size, device, 3)[0].transpose(0, 1)
    repeats = 3 if setting.tiny else 10

    def clock(attend) -> float:
        return milliseconds(
            lambda: forward_backward(attend, tensors, wanted), device, repeats
        )

    flash = clock(shared(row, TORCH_FLASH))
    index = row.packing(TORCH_FLASH).key_index
    gradient = draw(key_heads, len(index), sizes.size, device, 4)[0].transpose(0, 1)
    gradient = gradient.contiguous()
    sums = _backward(row, index, gradient, device, repeats)
    both = 2 * sums["index_add_ms"]  # keys and values
    return {
        "tokens": row.tokens,
        "keys": len(index),
        "attention_ms": {
            "shared, torch_flash": flash,
            "shared, sdpa": clock(shared(row, SDPA)),
            "apart, torch_flash": clock(apart(row, TORCH_FLASH)),
        },
        **sums,
        "index_add_share_of_attention": both / flash,
        "index_add_ms_of_all_layers": both * sizes.layers,
    }


def _backward(
    row: SharedRow, index: Tensor, gradient: Tensor, device, repeats: int
) -> dict:
    """Both ways to add up a gradient `[K, H, E]` of the keys to `[T, H, E]`."""
    like = gradient[: row.tokens]
    places = Places.of(row)

    def index_add() -> Tensor:
        return torch.zeros_like(like).index_add_(0, index, gradient)

    def segments() -> Tensor:
        return segment_sum(row, places, gradient)

    exact = torch.zeros_like(like, dtype=torch.float64)
    exact.index_add_(0, index, gradient.double())
    figures = {}
    for name, work in (("index_add", index_add), ("segment_sum", segments)):
        figures[f"{name}_ms"] = milliseconds(work, device, repeats)
        figures[f"{name}_repeats_bitwise"] = torch.equal(work(), work())
        figures[f"{name}_error"] = relative(work(), exact)
    return figures


@dataclass(frozen=True)
class Places:
    """Where tokens stand among the keys.

    Attributes
    ----------
    prompts
        Of each group: int64 `[copies, P]`.
    own
        Of the responses' tokens: int64 `[N]`.
    tokens
        Which tokens of the row these are: int64 `[N]`.
    """

    prompts: list[Tensor]
    own: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, row: SharedRow) -> Places:
        """In the order of `SharedRow.packing`."""
        prompts, own, at = [], [], 0
        for group in row.groups:
            copies = [torch.arange(at, at + group.prompt)]
            at += group.prompt
            for length in group.responses:
                copies.append(torch.arange(at, at + group.prompt))
                at += group.prompt
                own.append(torch.arange(at, at + length))
                at += length
            prompts.append(torch.stack(copies).to(row.device))
        tokens = row.responses().nonzero().flatten()
        return cls(prompts, torch.cat(own).to(row.device), tokens)


def segment_sum(row: SharedRow, places: Places, gradient: Tensor) -> Tensor:
    """Each prompt's copies added up in fp32, in order; responses' keys as they are."""
    total = torch.empty_like(gradient[: row.tokens])
    total[places.tokens] = gradient[places.own]
    for group, where in zip(row.groups, places.prompts, strict=True):
        total[group.start : group.start + group.prompt] = (
            gradient[where].float().sum(0).to(gradient.dtype)
        )
    return total
