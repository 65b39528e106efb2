"""The order of an optimiser step, from a batch to new weights, on a page.

In place of AReaL's `train_batch` and `forward_batch` for vision models; advantages,
policy loss, optimiser and all else are AReaL's. Letters: see `step/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.utils import stats_tracker
from areal.utils.perf_tracer import trace_scope
from torch import Tensor

from areal_cppo.config.augmentation import UNLIKE
from areal_cppo.config.engines import CPPOActorConfig
from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.core import TokenStatistics
from areal_cppo.step.batch import Batch, known_behaviour, needed_tokens
from areal_cppo.step.gate import Gated
from areal_cppo.step.objectives.base import Objective, Parts, start_objective
from areal_cppo.step.pack import MicroBatch
from areal_cppo.step.samples import keep_tokens, keep_views

# AReaL's: given log-probs and entropies `[T]` and the packed dictionary.
PolicyLoss = Callable[..., Tensor]
# AReaL's: how much a packed dictionary counts in the mean over the global batch.
LossWeight = Callable[[dict[str, Any]], Tensor]


def optimizer_step(
    engine: FSDPPPOActor,
    parts: Parts,
    padded: dict[str, Any],
    policy_loss: PolicyLoss,
    loss_weight: LossWeight,
) -> dict[str, float]:
    """One step on the policy loss and what the objective adds; all ranks call it.

    `padded` is AReaL's batch after `compute_advantages`. Returns AReaL's statistics of
    the step; the metrics are recorded where they are computed.
    """
    ranks, config = parts.ranks, parts.config

    # Gate: which responses the objective compares with views of their images. Views.
    objective = start_objective(parts, padded)
    gated = Gated.nothing(padded) if objective is None else objective.gated
    keep_views(padded, gated, parts.layout)

    # Packing: responses by prompt, those with views first; as many on every rank.
    micro_batches = _pack(parts, padded, gated, shifted=True)
    weights = [loss_weight(micro_batch.data) for micro_batch in micro_batches]
    total_weight = ranks.sum(torch.stack(weights).sum())
    if objective is not None and objective.prepares_all:
        objective.prepare(_pack(parts, padded, gated.all_drawn, shifted=True))
    elif objective is not None:
        objective.prepare(micro_batches)

    engine.optimizer_zero_grad()
    for micro_batch, weight in zip(micro_batches, weights, strict=True):
        added = None
        with trace_scope("fsdp_engine.forward"):
            if micro_batch.view is None:
                with parts.meter.time("anchor"):
                    statistics = _anchor(parts, micro_batch)
            else:
                # The views' passes, then the anchor's, in which they are compared.
                statistics, added = _compare(parts, objective, micro_batch)
        # The loss: the policy's share of the global batch's, and the objective's.
        # Gradients are averaged over ranks, hence the factor.
        loss = statistics.logprobs.sum() * 0.0  # connected, on all ranks
        if weight:
            policy = _policy_loss(micro_batch, statistics, policy_loss, config)
            if OBJECTIVES[config.objective].policy_loss:
                loss = policy * (weight / total_weight * ranks.count)
        if added is not None:
            loss = loss + ranks.count * added
        with trace_scope("fsdp_engine.backward"), parts.meter.time("backward"):
            loss.backward()
    with parts.meter.time("optimizer"):
        done = engine.optimizer_step()
    return done | {"num_micro_batches": len(micro_batches)}


@torch.no_grad()
def response_logprobs(parts: Parts, padded: dict[str, Any]) -> Tensor:
    """Log-probs of AReaL's padded batch, as rollout makes it: fp32 `[B, S]`, nats.

    Position t is that of token t + 1, 0 where that has no loss; all ranks call it.
    """
    gated = Gated.nothing(padded)
    found: dict[int, Tensor] = {}
    for micro_batch in _pack(parts, padded, gated, shifted=False):
        statistics = _anchor(parts, micro_batch)
        logprobs = micro_batch.spread(statistics.logprobs)
        lengths = micro_batch.data["cu_seqlens"].diff().tolist()
        found |= zip(micro_batch.anchor.responses, logprobs.split(lengths), strict=True)
    rows = [found[i] for i in sorted(found)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _pack(
    parts: Parts, padded: dict[str, Any], gated: Gated, *, shifted: bool
) -> list[MicroBatch]:
    """`shifted`: as `needed_tokens` takes it."""
    needed = needed_tokens(padded["loss_mask"], shifted=shifted)
    positions, device = parts.model.positions, parts.ranks.device
    batch = Batch.place(padded, needed, gated.sets, positions, device)
    return parts.pack(batch, gated.entering)


def _anchor(parts: Parts, micro_batch: MicroBatch) -> TokenStatistics:
    """Statistics `[W]` of the needed tokens."""
    logits = parts.config.speed.response_logits
    return parts.model.anchor(micro_batch, response_logits=logits)[0]


def _compare(
    parts: Parts, objective: Objective, micro_batch: MicroBatch
) -> tuple[TokenStatistics, Tensor | None]:
    """Statistics `[W]` of the anchor, and what the objective adds to the loss."""
    tokens = objective.tokens(micro_batch)
    views = objective.look(micro_batch, tokens)
    with parts.meter.time("anchor"):
        statistics, compared = parts.model.anchor(
            micro_batch,
            partial(objective.compare, micro_batch, tokens, views),
            response_logits=parts.config.speed.response_logits,
        )
    keep_tokens(micro_batch, tokens.gate, objective.shown(compared))
    objective.shape(micro_batch, tokens, compared)
    logprobs = micro_batch.spread(statistics.logprobs)
    return statistics, objective.loss(tokens, compared, logprobs)


def _policy_loss(
    micro_batch: MicroBatch,
    statistics: TokenStatistics,
    policy_loss: PolicyLoss,
    config: CPPOActorConfig,
) -> Tensor:
    """AReaL's loss of a micro-batch, and two statistics that it takes with it."""
    spread = micro_batch.spread
    logprobs = spread(statistics.logprobs)
    if config.reuses_proximal:  # they are those of this very pass
        micro_batch.data.setdefault("prox_logp", logprobs.detach())
    data = micro_batch.data
    if UNLIKE in data:  # then there are proximal ones (`config.agreements`)
        known = known_behaviour(data["logprobs"], data["prox_logp"], data[UNLIKE])
        data["logprobs"] = known
    loss = policy_loss(logprobs, spread(statistics.entropy), data)
    stats_tracker.stat(
        vocab_min_logits=spread(statistics.lowest),
        vocab_max_logits=spread(statistics.highest),
        denominator="n_valid_tokens",
    )
    return loss
