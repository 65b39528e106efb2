"""CPL written from its formulas, one response at a time, with transformers alone.

No packing, no AReaL, no function of `areal_cppo.core` but the views (they are tested by
themselves): entropies, selection, divergences and means are spelled out in loops.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from harness import LAYOUT
from transformers import Qwen2_5_VLForConditionalGeneration

from areal_cppo.core import ViewsConfig, parse_perturbations, perturb_pixel_values


def load(folder) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )


def response_logits(model, item: dict[str, Any], pixel_values) -> torch.Tensor:
    """Logits that predict the response's tokens, [n_response, V]."""
    logits = model(
        input_ids=item["input_ids"],
        attention_mask=torch.ones_like(item["input_ids"]),
        mm_token_type_ids=item["mm_token_type_ids"],
        pixel_values=pixel_values,
        image_grid_thw=item["multi_modal_input"][0]["image_grid_thw"],
        use_cache=False,
    ).logits[0]
    return logits[-n_response(item) - 1 : -1]


def n_response(item: dict[str, Any]) -> int:
    return int(item["loss_mask"].sum())


def logprobs(model, item: dict[str, Any]) -> torch.Tensor:
    """Log-probability of each response token, [n_response]."""
    logits = response_logits(model, item, item["multi_modal_input"][0]["pixel_values"])
    labels = item["input_ids"][0, -n_response(item) :]
    return torch.log_softmax(logits, -1)[range(len(labels)), labels]


def view(item: dict[str, Any], kind: str, version: int = 0, seed: int = 1):
    images = item["multi_modal_input"][0]
    return perturb_pixel_values(
        images["pixel_values"],
        images["image_grid_thw"],
        LAYOUT,
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


def k3(p_logits: torch.Tensor, q_logits: torch.Tensor, token: int) -> torch.Tensor:
    p, q = torch.log_softmax(p_logits, -1), torch.log_softmax(q_logits, -1)
    r = p[token] - q[token]
    return torch.exp(-r) - 1 + r


def select(anchor: torch.Tensor, negative: torch.Tensor, top: float) -> list[int]:
    """Indices of the perception tokens of one response."""
    gains = {}
    for t, (h, h_neg) in enumerate(zip(entropy(anchor), entropy(negative))):
        if h_neg - h > 0:
            gains[t] = (h_neg - h) / (h_neg + 1e-6)
    count = math.ceil(top * len(gains))
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
    version: int = 0,
) -> tuple[torch.Tensor, list[int]]:
    """CPL of a prepared batch (weights included), and selected tokens per response."""
    means, sums, counts = [], [], []
    for item in batch:
        n = n_response(item)
        advantage = item["advantages"][0, -n - 1 : -1]
        if not bool((advantage > 0).any()):
            continue
        logits = {
            "anchor": response_logits(
                model, item, item["multi_modal_input"][0]["pixel_values"]
            ),
            "positive": response_logits(model, item, view(item, "positive", version)),
            "negative": response_logits(model, item, view(item, "negative", version)),
        }
        chosen = select(logits["anchor"].detach(), logits["negative"].detach(), top)
        logits = {k: v if k in grad else v.detach() for k, v in logits.items()}
        terms = []
        for t in chosen:
            token = int(item["input_ids"][0, -n + t])
            near, far = (
                kl(logits["anchor"][t], logits[view][t])
                if divergence == "kl"
                else k3(logits["anchor"][t], logits[view][t], token)
                for view in ("positive", "negative")
            )
            # Of the shifted tensors of a prepared batch, entry -n - 1 + t predicts t.
            prox = item["prox_logp"][0, -n - 1 + t]
            behave = item["logprobs"][0, -n - 1 + t]
            weight = torch.exp(prox - behave).clamp(max=5.0)
            terms.append(weight * torch.log1p(torch.exp((near - far) / tau)))
        counts.append(len(chosen))
        total = sum(terms) if terms else logits["anchor"].sum() * 0
        sums.append(total)
        means.append(total / max(1, len(chosen)))
    if aggregation == "token":
        return sum(sums) / max(1, sum(counts)), counts
    return sum(means) / len(means), counts


def gradient(model, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in model.parameters()
        ]
    )
