"""Step 6: the output head a few rows at a time, at full scale in bf16.

Documented (docs/algorithm.md, tests/core/test_core_memory.py): log-probs and entropies
with their backward pass take at most 1,024 rows x vocabulary x 24 bytes, beyond hidden
states and head. With a head as wide as the 3B's its gradient is there twice besides: of
the chunks so far, and of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from areal_cppo.core import score_hidden, token_statistics, view_divergences
from areal_cppo.core.head import CHUNK
from tests.gpu_check.findings import Findings
from tests.gpu_check.setting import (
    GIB,
    Setting,
    exact_fp32,
    milliseconds,
    peak_memory,
    relative,
)

BYTES = 24  # a row and word
# Of bf16 against fp32. A divergence's gradient is the difference of two probabilities
# that are close, so that the rounding of logits to bf16 shows.
GRADIENT = {"statistics": 0.01, "divergences": 0.05}


@dataclass(frozen=True)
class Sizes:
    """Tokens of a row, gated and selected ones; hidden size and vocabulary."""

    tokens: int
    gated: int
    selected: int
    hidden: int
    words: int


FULL = Sizes(8192, 2048, 1024, 2048, 151_936)
TINY = Sizes(1100, 40, 20, 16, 500)


def run(setting: Setting, findings: Findings) -> None:
    """Statistics, scores, divergences."""
    sizes = TINY if setting.tiny else FULL
    head = Head(sizes, setting.device)
    work = {
        "statistics": head.statistics,
        "scores": head.scores,
        "divergences": head.divergences,
    }
    figures = {}
    for name, step in work.items():
        step()  # libraries take their own memory first
        with peak_memory(setting.device) as peak:
            step()
        time = milliseconds(step, setting.device, repeats=3 if setting.tiny else 5)
        figures[name] = {"milliseconds": time, "peak_bytes": peak.bytes}
    findings.figure(**figures)
    peak = figures["statistics"]["peak_bytes"]
    limit = BYTES * sizes.words * min(CHUNK, sizes.tokens) + 2 * head.weight_bytes
    findings.most("peak of statistics, bytes", peak, limit)
    _against_fp32(head, findings)
    findings.say(
        f"log-probs and entropies of {sizes.tokens:,} tokens: "
        f"{figures['statistics']['milliseconds']:.0f} ms, {peak / GIB:.2f} GiB"
    )


class Head:
    """Random hidden states, and a head whose logits are neither flat nor sure."""

    def __init__(self, sizes: Sizes, device: torch.device):
        self.sizes = sizes
        generator = torch.Generator().manual_seed(1)

        def draw(rows: int, std: float) -> Tensor:
            noise = std * torch.randn(rows, sizes.hidden, generator=generator)
            return noise.to(device, torch.bfloat16)

        self.weight = draw(sizes.words, 1.5 * sizes.hidden**-0.5)
        self.hidden = draw(sizes.tokens, 1.0)
        views = (self.hidden[: sizes.gated] + draw(sizes.gated, 0.3) for _ in range(2))
        self.positive, self.negative = views
        self.labels = torch.randint(
            sizes.words, (sizes.tokens,), generator=generator
        ).to(device)

    @property
    def weight_bytes(self) -> int:
        """Of the head."""
        return self.weight.numel() * self.weight.element_size()

    def statistics(self, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
        """Log-probs, and their sum's gradients in hidden states and head."""
        return self._backward(
            lambda project, hidden: (
                token_statistics(hidden, project, self.labels).logprobs
            ),
            [self.hidden],
            dtype,
        )

    def scores(self) -> Tensor:
        """Of the gated tokens, without gradient."""
        anchor = self.hidden[: self.sizes.gated]
        return score_hidden(anchor, self.negative, self._project(self.weight))[0]

    def divergences(self, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
        """Both views' at the selected tokens, and their sum's gradients."""
        some = slice(0, self.sizes.selected)

        def both(project, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            labels = self.labels[some]
            return sum(view_divergences(anchor, positive, negative, project, labels))

        views = [x[some] for x in (self.hidden, self.positive, self.negative)]
        return self._backward(both, views, dtype)

    @staticmethod
    def _project(weight: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda rows: rows @ weight.T

    def _backward(
        self, work: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype
    ) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in [self.weight, *inputs]]
        value = work(self._project(leaves[0]), *leaves[1:])
        return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def _against_fp32(head: Head, findings: Findings) -> None:
    figures = {}
    for name, limit in GRADIENT.items():
        step = getattr(head, name)
        found = step()
        with exact_fp32():
            expected = step(torch.float32)
        kinds = ("values", "gradient_of_head", "gradient_of_hidden_states")
        figures[name] = dict(zip(kinds, map(relative, found, expected)))
        for kind in kinds[1:]:
            words = kind.replace("_", " ")
            findings.most(f"{name}: {words} against fp32", figures[name][kind], limit)
    findings.figure(bf16_against_fp32=figures)
