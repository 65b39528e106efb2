"""PAPO and its like from their formulas, one response at a time, with transformers.

As `naive.py`: no packing, no AReaL, no function of `areal_cppo.core` but the views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from areal_cppo.core import parse_perturbations, perturb_pixel_values
from tests.step import naive
from tests.step.harness import LAYOUT

PAPO_VIEWS = [{"name": "black_squares", "coverage": 0.6, "square": 14}]
VPPO_VIEWS = [{"name": "black_squares", "coverage": 0.5, "square": 14}]
NOISED = [{"name": "diffusion_noise", "steps": 250}]


def both_logits(
    model, item: dict[str, Any], views: list[dict], version: int, kind="negative"
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Logits of anchor and view, `[n_response, V]`; None without an image."""
    images = item["multi_modal_input"][0]
    if not images:
        return None
    view = perturb_pixel_values(
        images["pixel_values"],
        images["image_grid_thw"],
        LAYOUT,
        parse_perturbations(views),
        kind=kind,
        run_seed=1,
        policy_version=version,
    )
    if view.unchanged.all():
        return None
    return tuple(
        naive.response_logits(model, item, pixels).double()
        for pixels in (images["pixel_values"], view.pixel_values)
    )


def labels(item: dict[str, Any]) -> list[int]:
    return item["input_ids"][0, -naive.n_response(item) :].tolist()


def staleness_weights(item: dict[str, Any], version: int, decay: float) -> list[float]:
    """With an importance cap of 5."""
    n = naive.n_response(item)
    found = []
    for t in range(n):
        ratio = item["prox_logp"][0, -n - 1 + t] - item["logprobs"][0, -n - 1 + t]
        age = version - int(item["versions"][0, -n + t])
        found.append(min(math.exp(ratio), 5.0) * decay**age)
    return found


def papo(
    model,
    batch: list[dict[str, Any]],
    *,
    gamma: float = 0.01,
    eta1: float = 0.03,
    eta2: float = 0.0,
    divergence: str = "k3",
    max_divergence: float | None = 10.0,
    entropy: str = "sampled",
    negative_grad: bool = False,
    aggregation: str = "token",
    views: list[dict] = PAPO_VIEWS,
    decay: float = 1.0,
    version: int = 0,
) -> torch.Tensor:
    """What PAPO adds to the policy loss of a prepared batch."""
    sums, counts = [], []
    for item in batch:
        logits = both_logits(model, item, views, version)
        if logits is None:
            continue
        anchor, negative = logits
        negative = negative if negative_grad else negative.detach()
        log_p, log_q = (torch.log_softmax(x, -1) for x in (anchor, negative))
        weights = staleness_weights(item, version, decay)
        total = 0.0
        for t, token in enumerate(labels(item)):
            ratio = log_q[t, token] - log_p[t, token]
            apart = torch.exp(ratio) - ratio - 1
            if divergence == "kl":
                apart = (log_p[t].exp() * (log_p[t] - log_q[t])).sum()
            if max_divergence is not None and apart > max_divergence:
                apart = torch.tensor(max_divergence)
            spread = -log_p[t, token], -log_q[t, token]
            if entropy == "full":
                spread = tuple(-(x[t].exp() * x[t]).sum() for x in (log_p, log_q))
            term = -gamma * apart + eta1 * spread[0] + eta2 * spread[1]
            total = total + weights[t] * term
        sums.append(total)
        counts.append(naive.n_response(item))
    if aggregation == "token":
        return sum(sums) / sum(counts)
    return sum(x / n for x, n in zip(sums, counts)) / len(sums)


def dvrp(
    model,
    batch: list[dict[str, Any]],
    *,
    lambda_nec: float = 0.01,
    lambda_rob: float = 0.01,
    lambda_ent: float = 0.05,
    divergence: str = "kl",
    max_divergence: float | None = 10.0,
    grad: Sequence[str] = ("anchor", "positive", "negative"),
    aggregation: str = "token",
    decay: float = 1.0,
    version: int = 0,
    weighted: bool = True,
) -> torch.Tensor:
    """What DVRP adds to the policy loss of a prepared batch."""
    sums, counts = [], []
    for item in batch:
        masked = both_logits(model, item, PAPO_VIEWS, version)
        if masked is None:
            continue
        noised = both_logits(model, item, NOISED, version, "positive")
        logits = {"anchor": masked[0], "negative": masked[1], "positive": noised[1]}
        p, q, plus = (
            torch.log_softmax(x if kind in grad else x.detach(), -1)
            for kind, x in logits.items()
        )
        weights = [1.0] * naive.n_response(item)
        if weighted:
            weights = staleness_weights(item, version, decay)
        total = 0.0
        for t, token in enumerate(labels(item)):
            if divergence == "kl":
                away, near = ((p[t].exp() * (p[t] - x[t])).sum() for x in (q, plus))
            else:
                ratios = (x[t, token] - p[t, token] for x in (q, plus))
                away, near = (torch.exp(ratio) - ratio - 1 for ratio in ratios)
            if max_divergence is not None and away > max_divergence:
                away = torch.tensor(max_divergence)
            entropy = -sum((x[t].exp() * x[t]).sum() for x in (q, plus))
            term = lambda_rob * near - lambda_nec * away + lambda_ent * entropy
            total = total + weights[t] * term
        sums.append(total)
        counts.append(naive.n_response(item))
    if aggregation == "token":
        return sum(sums) / sum(counts)
    return sum(x / n for x, n in zip(sums, counts)) / len(sums)


@torch.no_grad()
def vppo_advantages(
    model,
    batch: list[dict[str, Any]],
    *,
    top_fraction: float = 0.4,
    beta_min: float = 0.9,
    beta_max: float | None = None,
    dependency: str = "kl",
    max_dependency: float | None = 10.0,
    views: list[dict] = VPPO_VIEWS,
    version: int = 0,
) -> list[list[float]]:
    """Each response's advantages, token by token."""
    of_token: list[list[float] | None] = []
    for item in batch:
        logits = both_logits(model, item, views, version)
        if logits is None:
            of_token.append(None)
            continue
        log_p, log_q = (torch.log_softmax(x, -1) for x in logits)
        values = []
        for t, token in enumerate(labels(item)):
            ratio = float(log_q[t, token] - log_p[t, token])
            value = math.exp(ratio) - ratio - 1
            if dependency == "kl":
                value = float((log_p[t].exp() * (log_p[t] - log_q[t])).sum())
            values.append(
                min(value, math.inf if max_dependency is None else max_dependency)
            )
        of_token.append(values)
    means = [sum(x) / len(x) for x in of_token if x is not None]
    low, high = min(means), max(means)
    advantages = []
    for item, values in zip(batch, of_token):
        n = naive.n_response(item)
        own = item["advantages"][0, -n - 1 : -1].tolist()
        if values is None:
            advantages.append(own)
            continue
        factor = 1.0
        if high > low:
            places = [(mean - low) / (high - low) for mean in means]
            top = beta_max
            if top is None:
                top = beta_min + (1 - beta_min) / (sum(places) / len(places))
            place = (sum(values) / n - low) / (high - low)
            factor = beta_min + (top - beta_min) * place
        count = math.ceil(round(top_fraction * n, 9))
        kept = sorted(range(n), key=lambda t: -values[t])[:count]
        advantages.append([factor * own[t] if t in kept else 0.0 for t in range(n)])
    return advantages


@torch.no_grad()
def pgpo_advantages(
    model,
    batch: list[dict[str, Any]],
    *,
    tau: float = 0.4,
    beta: float = 2.0,
    dependency: str = "k3",
    max_dependency: float | None = None,
    views: Sequence[dict] = ({"name": "blank"},),
    version: int = 0,
) -> list[list[float]]:
    """Each response's advantages, token by token."""
    advantages = []
    for item in batch:
        n = naive.n_response(item)
        own = item["advantages"][0, -n - 1 : -1].tolist()
        advantages.append(own)
        logits = both_logits(model, item, list(views), version)
        if logits is None:
            continue
        log_p, log_q = (torch.log_softmax(x, -1) for x in logits)
        scores = []
        for t, token in enumerate(labels(item)):
            ratio = math.exp(log_q[t, token] - log_p[t, token])
            value = (ratio - 1) - math.log(ratio)
            if dependency == "kl":
                value = float((log_p[t].exp() * (log_p[t] - log_q[t])).sum())
            if max_dependency is not None:
                value = min(value, max_dependency)
            scores.append(math.log(1 + value))
        low, high = min(scores), max(scores)
        if high - low < 1e-6:
            continue
        weights = []
        for score in scores:
            place = (score - low) / (high - low)
            if place < tau:
                weights.append(place / tau)
            else:
                weights.append(1 + beta * (place - tau) / (1 - tau + 1e-12))
        mean = sum(weights) / n
        advantages[-1] = [w / mean * a for w, a in zip(weights, own)]
    return advantages


def policy(
    model, batch: list[dict[str, Any]], advantages: list[list[float]]
) -> torch.Tensor:
    """GRPO's loss on given advantages, at its first update (see `naive.policy`)."""
    total, count = 0.0, 0
    for item, own in zip(batch, advantages, strict=True):
        logprobs = naive.logprobs(model, item)
        total = total - (torch.tensor(own) * logprobs).sum()
        count += len(own)
    return total / count
