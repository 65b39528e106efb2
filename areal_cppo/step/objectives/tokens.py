"""A micro-batch as an objective sees it: which of its tokens may be used.

Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from areal_cppo.config.augmentation import UNLIKE
from areal_cppo.core import StalenessConfig, token_weights
from areal_cppo.step.batch import COUNTS, known_behaviour
from areal_cppo.step.gate import gate_tokens
from areal_cppo.step.pack import MicroBatch


@dataclass(frozen=True)
class GatedTokens:
    """A micro-batch as an objective sees it.

    Tensors are `[T]`, at the position that predicts a token, unless they say otherwise.

    `input_ids` and `versions` are stored at the token itself and shifted here; AReaL's
    `loss_mask`, `advantages`, `logprobs` and `prox_logp` come shifted. Positions where
    the shift crosses a response's end have no loss and so no gate.

    Attributes
    ----------
    gate
        Bool: tokens that may be used.
    at
        Int64 `[G]`: where that is true.
    responses
        Bool, one a response: those of whose tokens some are.
    counts
        fp32: how often a token's response counts.
    tokens, labels
        Ints: the token at each position, and the one that it predicts.
    sequences
        Int64: which response.
    versions
        Int: policy version that sampled the predicted token.
    behaviour_logprobs, proximal_logprobs
        fp32, nats; the latter may be None.
    unlike
        Int: 1 where the behaviour policy saw another image, so that the token has no
        importance weight; None: nowhere.
    """

    gate: Tensor
    at: Tensor
    responses: Tensor
    counts: Tensor
    tokens: Tensor
    labels: Tensor
    sequences: Tensor
    versions: Tensor
    behaviour_logprobs: Tensor
    proximal_logprobs: Tensor | None
    unlike: Tensor | None

    @classmethod
    def of(cls, micro_batch: MicroBatch, gate: str, responses: Tensor) -> GatedTokens:
        """`responses` is bool, one each: of the others no token is gated."""
        data = micro_batch.data
        lengths = data["cu_seqlens"].diff().long()
        sequences = torch.repeat_interleave(
            torch.arange(len(lengths), device=lengths.device), lengths
        )
        gated = gate_tokens(data, gate) & responses[sequences]
        counts = data.get(COUNTS)
        return cls(
            gate=gated,
            at=gated.nonzero().flatten(),
            responses=responses,
            counts=torch.ones_like(data["logprobs"]) if counts is None else counts,
            tokens=data["input_ids"],
            labels=micro_batch.labels,
            sequences=sequences,
            versions=torch.roll(data["versions"], shifts=-1, dims=-1),
            behaviour_logprobs=data["logprobs"],
            proximal_logprobs=data.get("prox_logp"),
            unlike=data.get(UNLIKE),
        )

    def weights(
        self, config: StalenessConfig, logprobs: Tensor, at: Tensor, version: int
    ) -> Tensor:
        """Importance weight and decay of the tokens at some positions `[N]`: fp32.

        `logprobs` `[T]` are the current policy's, for want of proximal ones.
        """
        proximal, behaviour = self.proximal_logprobs, self.behaviour_logprobs
        start = logprobs.detach() if proximal is None else proximal
        behaviour = known_behaviour(behaviour, start, self.unlike)
        return token_weights(
            config,
            logprobs[at],
            None if proximal is None else proximal[at],
            behaviour[at],
            self.versions[at],
            version,
        )


def at_gate(micro_batch: MicroBatch, tokens: GatedTokens) -> Tensor:
    """Int64 `[G]`: which of the `W` needed tokens are gated."""
    return tokens.gate[micro_batch.needed].nonzero().flatten()
