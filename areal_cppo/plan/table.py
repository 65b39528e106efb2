"""A plan as a table for the terminal, and as a dict for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from areal_cppo.plan.candidates import Candidate, reason
from areal_cppo.plan.rates import Rates
from areal_cppo.plan.search import NOT_MODELLED, Plan

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
    rows = [_HEADINGS, *(_row(c, rates) for c in shown)]
    if plan.turns is not None:
        rows.append(_row(plan.turns, rates))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    notes = [""] + [f"    {reason(c)}" for c in shown]
    if plan.turns is not None:
        notes.append("    all GPUs generate, then all train: the synchronous baseline")
    text = []
    for line, note in zip(lines, notes):
        text += [line, note] if note else [line]
    if recommended is not None:
        text.append(f"recommended: {_sentence(recommended, plan, rates)}")
    return "\n".join(text)


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
