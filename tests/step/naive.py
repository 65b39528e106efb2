"""CPL written from its formulas, one response at a time, with transformers alone.

No packing, no AReaL, no function of `areal_cppo.core` but the views (they are tested by
themselves): entropies, selection, divergences and means are spelled out in loops.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from areal_cppo.core import (
    PatchLayout,
    ViewsConfig,
    parse_perturbations,
    perturb_pixel_values,
)
from tests.step.harness import LAYOUT


def load(folder) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )


def response_logits(model, item: dict[str, Any], pixel_values) -> torch.Tensor:
    """Logits that predict the response's tokens, [n_response, V].

    `pixel_values` is `None` for a response without an image.
    """
    logits = model(
        input_ids=item["input_ids"],
        attention_mask=torch.ones_like(item["input_ids"]),
        mm_token_type_ids=item["mm_token_type_ids"],
        pixel_values=pixel_values,
        image_grid_thw=item["multi_modal_input"][0].get("image_grid_thw"),
        use_cache=False,
    ).logits[0]
    return logits[-n_response(item) - 1 : -1]


def n_response(item: dict[str, Any]) -> int:
    return int(item["loss_mask"].sum())


def logprobs(model, item: dict[str, Any]) -> torch.Tensor:
    """Log-probability of each response token, [n_response]."""
    pixel_values = item["multi_modal_input"][0].get("pixel_values")
    logits = response_logits(model, item, pixel_values)
    labels = item["input_ids"][0, -n_response(item) :]
    return torch.log_softmax(logits, -1)[range(len(labels)), labels]


def view(
    item: dict[str, Any],
    kind: str,
    version: int = 0,
    seed: int = 1,
    layout: PatchLayout = LAYOUT,
) -> torch.Tensor:
    images = item["multi_modal_input"][0]
    return perturb_pixel_values(
        images["pixel_values"],
        images["image_grid_thw"],
        layout,
        parse_perturbations(getattr(ViewsConfig(), kind)),
        kind=kind,
        run_seed=seed,
        policy_version=version,
    ).pixel_values


def entropy(logits: torch.Tensor) -> list[float]:
    p = torch.softmax(logits.double(), -1)
    return [float(-(row * row.log()).sum()) for row in p]


def kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    p, q = torch.log_softmax(p_logits, -1), torch.log_softmax(q_logits, -1)
    return (p.exp() * (p - q)).sum()


def estimate(
    kind: str, p_logits: torch.Tensor, q_logits: torch.Tensor, token: int
) -> torch.Tensor:
    """k1, k2 or k3 from the sampled token."""
    p, q = torch.log_softmax(p_logits, -1), torch.log_softmax(q_logits, -1)
    r = p[token] - q[token]
    return {"k1": r, "k2": r * r / 2, "k3": torch.exp(-r) - 1 + r}[kind]


def select(
    anchor: torch.Tensor,
    negative: torch.Tensor,
    top: float,
    gate: list[bool],
    min_gain: float = 0.0,
    quota: str = "ceil",
    normalised: bool = True,
) -> list[int]:
    """Indices of the perception tokens of one response."""
    gains = {}
    floor = min_gain * math.log(anchor.shape[-1])
    for t, (h, h_neg) in enumerate(zip(entropy(anchor), entropy(negative))):
        if gate[t] and h_neg - h > 0 and h_neg - h >= floor:
            gains[t] = h_neg - h
            if normalised:
                gains[t] = gains[t] / (h_neg + 1e-6)
    count = math.ceil(top * len(gains))
    if quota == "floor" and gains:
        count = max(1, math.floor(top * len(gains)))
    return sorted(sorted(gains, key=lambda t: -gains[t])[:count])


def cpl(
    model,
    batch: list[dict[str, Any]],
    *,
    tau: float = 0.1,
    top: float = 0.5,
    grad: tuple[str, ...] = ("anchor", "positive", "negative"),
    aggregation: str = "sequence",
    divergence: str = "kl",
    gate: str = "positive_advantage",
    selection: str = "entropy_gain",
    min_gain: float = 0.0,
    quota: str = "ceil",
    importance: bool = True,
    cap: float | None = 5.0,
    decay: float = 1.0,
    max_staleness: int | None = None,
    version: int = 0,
    layout: PatchLayout = LAYOUT,
) -> tuple[torch.Tensor, list[int]]:
    """CPL of a prepared batch (weights included), and selected tokens per response."""
    means, sums, counts = [], [], []
    for item in batch:
        n = n_response(item)
        advantage = item["advantages"][0, -n - 1 : -1]
        gated = [gate == "none" or float(a) > 0 for a in advantage]
        if not any(gated) or not item["multi_modal_input"][0]:
            continue
        logits = {
            "anchor": response_logits(
                model, item, item["multi_modal_input"][0]["pixel_values"]
            ),
            **{
                kind: response_logits(
                    model, item, view(item, kind, version, layout=layout)
                )
                for kind in ("positive", "negative")
            },
        }
        chosen = [t for t in range(n) if gated[t]]
        if selection in ("entropy_gain", "entropy_rise"):
            chosen = select(
                logits["anchor"].detach(),
                logits["negative"].detach(),
                top,
                gated,
                min_gain,
                quota,
                normalised=selection == "entropy_gain",
            )
        # What follows is in double precision: log(1 + exp(x)) overflows in single.
        logits = {
            k: (v if k in grad else v.detach()).double() for k, v in logits.items()
        }
        terms = []
        for t in chosen:
            token = int(item["input_ids"][0, -n + t])
            near, far = (
                kl(logits["anchor"][t], logits[view][t])
                if divergence == "kl"
                else estimate(divergence, logits["anchor"][t], logits[view][t], token)
                for view in ("positive", "negative")
            )
            # Of the shifted tensors of a prepared batch, entry -n - 1 + t predicts t.
            prox = item["prox_logp"][0, -n - 1 + t]
            behave = item["logprobs"][0, -n - 1 + t]
            weight = torch.exp(prox - behave) if importance else torch.tensor(1.0)
            weight = min(weight, torch.tensor(cap)) if cap is not None else weight
            staleness = version - int(item["versions"][0, -n + t])
            weight = weight * decay**staleness
            if max_staleness is not None and staleness > max_staleness:
                weight = 0.0
            terms.append(weight * torch.log1p(torch.exp((near - far) / tau)))
        counts.append(len(chosen))
        total = sum(terms) if terms else logits["anchor"].sum() * 0
        sums.append(total)
        means.append(total / max(1, len(chosen)))
    if aggregation == "token":
        return sum(sums) / max(1, sum(counts)), counts
    return sum(means) / len(means), counts


def policy(model, batch: list[dict[str, Any]]) -> torch.Tensor:
    """GRPO's loss of a prepared batch at its first update: every ratio is 1, so that
    nothing is clipped; the mean over the tokens of all responses."""
    total, count = 0.0, 0
    for item in batch:
        n = n_response(item)
        advantage = item["advantages"][0, -n - 1 : -1]
        total = total - (advantage * logprobs(model, item)).sum()
        count += n
    return total / count


def gradient(model, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in model.parameters()
        ]
    )
