"""A plan as a table for the terminal, and as a dict for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from areal_cppo.plan.rates import Rates
from areal_cppo.plan.search import TRAINER_WAITS, Candidate, Plan
from areal_cppo.report.table import table as aligned

NOT_MODELLED = (
    "what staleness does to learning: samples/s are not progress",
    "a response's pace as its context grows, and memory for it: the decode curve is "
    "taken at a typical length, and the slots must fit",
    "how weight updates, data and rewards slow down with the number of servers: each "
    "update takes the given seconds, networks and disks are never busy",
    "failures, restarts, checkpoints and evaluations",
    "refused responses and rejected groups: every sample is trained on",
    "lengths that depend on the prompt, or change as training goes on",
    "micro-batches and pipeline bubbles: a rank's time is linear in its tokens",
    "a trainer that shares GPUs with servers; where all GPUs take turns, moving models "
    "in and out of memory takes no time",
)

_HELD = 0.3  # share of the time; what holds groups back for longer is named
_FULL = 0.9  # share of the slots, or of the best speed

_HEADINGS = (
    "generate",
    "train",
    "bound",
    "samples/s",
    "tokens/s",
    "s/step",
    "trainer idle",
    "generation idle",
    "best speed",
    "staleness mean max",
    "interrupted",
)


def table(plan: Plan, rates: Rates, most: int = 5) -> str:
    """The best few, with the reason of each, and the baseline."""
    shown = plan.best[:most]
    recommended = plan.recommended
    if recommended is not None and recommended not in shown:
        shown.append(recommended)
    notes = [reason(c) for c in shown]
    if plan.turns is not None:
        shown.append(plan.turns)
        notes.append("all GPUs generate, then all train: the synchronous baseline")
    heading, *rows = aligned(_HEADINGS, [_row(c, rates) for c in shown]).splitlines()
    lines = [heading]
    for row, note in zip(rows, notes, strict=True):
        lines += [row, f"    {note}"]
    if recommended is not None:
        lines.append(f"recommended: {_sentence(recommended, plan, rates)}")
    return "\n".join(lines)


def reason(candidate: Candidate) -> str:
    """Which side is the bottleneck, in words."""
    outcome = candidate.outcome
    if outcome is None:
        return "not simulated"
    setting = outcome.setting
    best = f"{outcome.decode_utilisation:.0%} of their best speed"
    if setting.staleness == 0:
        return (
            f"one side waits for the other: the trainer {outcome.trainer_idle:.0%} of "
            f"the time; the servers generate at {best}"
        )
    waits = f"the trainer waits {outcome.trainer_idle:.0%} of the time"
    works = f"the servers generate at {best}"
    cause, share = max(outcome.held.items(), key=lambda pair: pair[1])
    if outcome.trainer_idle < TRAINER_WAITS:
        held = share if cause == "bound" else 0.0
        back = f", held back by the bound {held:.0%} of the time" if held > 0.1 else ""
        return f"training is the bottleneck: {waits}; {works}{back}"
    full = outcome.occupancy > _FULL or outcome.decode_utilisation > _FULL
    if full or share < _HELD:
        return f"generation is the bottleneck: {waits}; {works}"
    if cause == "bound":
        return (
            f"the staleness bound is the bottleneck: {waits}; {share:.0%} of it no "
            f"group may start; {works}"
        )
    if cause == "queue":
        return (
            f"the queue of prompts is the bottleneck: {waits}; AReaL fills it only "
            f"meanwhile; {works}"
        )
    return (
        f"generation is the bottleneck: {waits}; {works}, as max_concurrent_rollouts "
        f"leaves {1 - outcome.occupancy:.0%} of their slots free"
    )


def _row(candidate: Candidate, rates: Rates) -> tuple[str, ...]:
    setting, outcome = candidate.setting, candidate.outcome
    return (
        f"{setting.servers * rates.server.gpus}",
        f"{setting.ranks * rates.trainer.gpus}",
        f"{setting.staleness}",
        f"{outcome.samples_per_second:.4g}",
        f"{outcome.tokens_per_second:,.0f}",
        f"{outcome.step_seconds:.1f}",
        f"{outcome.trainer_idle:.0%}",
        f"{outcome.generation_idle:.0%}",
        f"{outcome.decode_utilisation:.0%}",
        f"{outcome.mean_staleness:.1f} {outcome.max_staleness:3d}",
        f"{outcome.interrupted:.0%}",
    )


def _sentence(candidate: Candidate, plan: Plan, rates: Rates) -> str:
    setting = candidate.setting
    # The bound lets no more be under way.
    most = (setting.staleness + 1) * setting.batch
    concurrent = min(setting.groups_at_once(rates), most)
    text = (
        f"{setting.servers * rates.server.gpus} of {plan.gpus} GPUs generate "
        f"({setting.servers} servers), {setting.ranks * rates.trainer.gpus} train "
        f"({setting.ranks} ranks), max_head_offpolicyness {setting.staleness}, "
        f"max_concurrent_rollouts {concurrent}"
    )
    if plan.turns is not None and plan.turns.outcome is not None:
        times = candidate.samples_per_second / plan.turns.samples_per_second
        text += f": {times:.2f} times the samples/s of taking turns"
    return text


def as_json(plan: Plan, rates: Rates, most: int = 5) -> dict[str, Any]:
    """All splits with their upper bounds, what was simulated, the best few in whole."""
    recommended = plan.recommended
    return {
        "simulated": True,
        "complete": plan.complete,
        "gpus": plan.gpus,
        "rates": rates.as_json(),
        "not_modelled": list(NOT_MODELLED),
        "turns": _candidate(plan.turns, rates) if plan.turns else None,
        "recommended": _candidate(recommended, rates) if recommended else None,
        "best": [_candidate(c, rates, whole=True) for c in plan.best[:most]],
        "candidates": [_candidate(c, rates) for c in plan.candidates],
    }


def _candidate(
    candidate: Candidate, rates: Rates, whole: bool = False
) -> dict[str, Any]:
    setting = candidate.setting
    described: dict[str, Any] = {
        "servers": setting.servers,
        "ranks": setting.ranks,
        "generation_gpus": setting.servers * rates.server.gpus,
        "training_gpus": setting.ranks * rates.trainer.gpus,
        "staleness": setting.staleness,
        "most_samples_per_second": candidate.most,
        "step_bound": asdict(candidate.bound),
    }
    if candidate.outcome is not None:
        outcome = candidate.outcome.as_json()
        if not whole:
            del outcome["steps"]
        described |= {"reason": reason(candidate), "outcome": outcome}
    return described
