"""Rates of a model on a GPU by a roofline: an illustration, where nothing is measured.

    python -m tests.plan.roofline NAME > FILE

writes one of docs/throughput/*.json. A decode step reads all weights and the running
requests' keys and values from memory, or multiplies them, whichever takes longer:

    seconds = max(bytes / (bandwidth * share), operations / (peak * share)) + launch

with 2 operations a weight and token. Prefill takes 2, a train step 6 for forward and
backward pass and 2 for the log-probs of the proximal policy; CPPO's views come on top
as `more_training`. Attention's own operations are left out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np

from areal_cppo.errors import UserError
from areal_cppo.plan.distributions import Distribution, Fixed, Lognormal
from areal_cppo.plan.rates import Rates, ServerRates, TrainerRates, WeightRates

_BYTES = 2  # bfloat16
_POINTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Case:
    """A model, a GPU and assumptions.

    Attributes
    ----------
    parameters, layers, kv_heads, head_dim
        The language model's.
    bandwidth, peak, memory
        The GPU's: bytes/s, operations/s in bfloat16, bytes.
    reached_bandwidth, reached_prefill, reached_training
        Shares of them that are reached: assumed.
    launch_seconds
        Of a decode step, whatever it does: assumed.
    rank_gpus
        GPUs of a data-parallel rank.
    more_training
        Operations of a train step beside GRPO's, as a share of those.
    step_seconds, sync_seconds, update_seconds, request_seconds, reward_seconds
        As in the rates file: assumed.
    prompt, response
        Lengths: assumed.
    sources
        Where the numbers come from, for the file.
    """

    parameters: float
    layers: int
    kv_heads: int
    head_dim: int
    bandwidth: float
    peak: float
    memory: float
    prompt: Distribution
    response: Distribution
    sources: dict[str, str]
    more_training: float = 0.0
    reached_bandwidth: float = 0.6
    reached_prefill: float = 0.4
    reached_training: float = 0.35
    launch_seconds: float = 0.003
    rank_gpus: int = 1
    step_seconds: float = 2.0
    sync_seconds: float = 0.2
    update_seconds: float = 3.0
    request_seconds: float = 0.05
    reward_seconds: float = 0.1

    @property
    def context(self) -> float:
        """Tokens of which keys and values are read for a token, on average over tokens:
        the prompt and half of the response, long responses counted more often."""
        lengths = self.response.sample(np.random.default_rng(0), 100_000).astype(float)
        return self.prompt.mean + float((lengths**2).mean() / lengths.mean() / 2)

    @property
    def kv_bytes(self) -> int:
        """Of a token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _BYTES

    @property
    def slots(self) -> int:
        """Requests of the typical context that fit in 85 % of memory."""
        room = 0.85 * self.memory - self.parameters * _BYTES
        return int(min(_POINTS[-1], room // (self.context * self.kv_bytes)))

    def tokens_per_second(self, running: int) -> float:
        """Of a server on one GPU."""
        read = self.parameters * _BYTES + running * self.context * self.kv_bytes
        reading = read / (self.bandwidth * self.reached_bandwidth)
        computing = 2 * self.parameters * running / (self.peak * self.reached_prefill)
        return running / (max(reading, computing) + self.launch_seconds)

    def rates(self) -> Rates:
        """The rates file's numbers, to four digits."""
        points = sorted({*(n for n in _POINTS if n < self.slots), self.slots})
        operations = 8 * self.parameters * (1 + self.more_training)
        speed = self.rank_gpus * self.peak * self.reached_training
        prefill = self.peak * self.reached_prefill / (2 * self.parameters)
        return Rates(
            server=ServerRates(
                gpus=1,
                slots=self.slots,
                decode=tuple((n, _round(self.tokens_per_second(n))) for n in points),
                prefill_tokens_per_second=_round(prefill),
                request_seconds=self.request_seconds,
                prefix_caching=True,
            ),
            trainer=TrainerRates(
                gpus=self.rank_gpus,
                step_seconds=self.step_seconds,
                token_seconds=_round(operations / speed),
                sync_seconds=self.sync_seconds,
            ),
            weights=WeightRates(self.update_seconds, 0.25),
            reward_seconds=self.reward_seconds,
            prompt_tokens=self.prompt,
            response_tokens=self.response,
            measured=self.sources,
        )


def _round(value: float) -> float:
    return float(f"{value:.4g}")


_ASSUMED = (
    "reached shares of bandwidth (0.6), of operations in prefill (0.4) and in training "
    "(0.35), 3 ms a decode step, 2 s a train step and 0.2 s a doubling of ranks, 3 s a "
    "weight update, 0.05 s a request, 0.1 s a reward, the lengths"
)


def _sources(name: str, **more: str) -> dict[str, str]:
    return {
        "command": f"python -m tests.plan.roofline {name}",
        "machine": "none: nothing here was measured",
        "date": "none",
        "how": "roofline; see tests/plan/roofline.py",
        "assumed": _ASSUMED,
        **more,
    }


def cases() -> dict[str, Case]:
    """By name, those that docs/throughput.md uses."""
    # NVIDIA's data sheets of H100 SXM and H800 SXM: both 3.35 TB/s, 989 TFLOP/s dense
    # in bfloat16, 80 GB.
    hopper = {"bandwidth": 3.35e12, "peak": 989e12, "memory": 80e9}
    return {
        "qwen2.5-vl-3b_h100": Case(
            parameters=3.75e9,
            layers=36,
            kv_heads=2,
            head_dim=128,
            prompt=Fixed(406),
            response=Lognormal(350, 0.7, 4096),
            more_training=0.5,
            sources=_sources(
                "qwen2.5-vl-3b_h100",
                model="Qwen2.5-VL-3B-Instruct's config.json; 3.75e9 weights, the "
                "vision tower's among them",
                gpu="H100 SXM's data sheet: 3.35 TB/s, 989 TFLOP/s, 80 GB",
                prompt="448-px image (256 tokens) and 150 of text: the defaults of "
                "bench train-step",
                response="lognormal, median 350, cut at 4096 (recipes); assumed",
                training="GRPO's operations and half as many for CPPO's views; the "
                "half is assumed",
            ),
            **hopper,
        ),
        "areal_1.5b_h800": Case(
            parameters=1.78e9,
            layers=28,
            kv_heads=2,
            head_dim=128,
            prompt=Fixed(200),
            response=Lognormal(4000, 0.8, 27_648),
            sources=_sources(
                "areal_1.5b_h800",
                model="DeepSeek-R1-Distill-Qwen-1.5B's config.json; 1.78e9 weights",
                gpu="H800 SXM's data sheet: 3.35 TB/s, 989 TFLOP/s, 80 GB",
                response="27K tokens at most: AReaL's blog of v0.3; median and spread "
                "assumed",
            ),
            **hopper,
        ),
    }


def main(argv: list[str]) -> int:
    """Print the rates file of a case."""
    known = cases()
    if len(argv) != 1 or argv[0] not in known:
        raise UserError(
            f"expected one of {', '.join(known)}, found {' '.join(argv) or 'nothing'}; "
            "name one"
        )
    print(json.dumps(known[argv[0]].rates().as_json(), indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"{error}")
