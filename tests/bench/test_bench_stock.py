"""What ours is compared with does what it says.

The published CPPO: the gradient that it adds to AReaL's policy loss, against its
formulas written out token by token with plain transformers, where a micro-batch is one
sequence. Sequences kept apart: log-probabilities equal ours, which are tested against
plain transformers, and differ from the stock actor's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from transformers import AutoModelForImageTextToText

from areal_cppo.bench.actors import Actors
from areal_cppo.bench.arms import all_arms
from areal_cppo.bench.models import make_batch
from areal_cppo.bench.quiet import quiet
from areal_cppo.bench.stock import PublishedActor, with_views
from areal_cppo.bench.train_step import train_step
from areal_cppo.bench.workload import Workload
from areal_cppo.core import PatchLayout
from areal_cppo.patches.transformers import correct_image_positions

ARMS = {arm.letter: arm for arm in all_arms()}
COEF = 20.0  # so that the difference of two gradients has digits to compare


def response_logprobs(actor, batch) -> torch.Tensor:
    pairs = zip(batch, actor.compute_logp(batch), strict=True)
    return torch.cat(
        [out[item["loss_mask"].roll(-1, -1).bool()] for item, out in pairs]
    )


def test_sequences_are_kept_apart(actors, model, workload):
    batch = make_batch(workload, model[1], PatchLayout())
    logprobs = {
        letter: response_logprobs(actors.ready(ARMS[letter]), batch)
        for letter in ("c", "a", "a*")
    }
    torch.testing.assert_close(logprobs["a*"], logprobs["c"], rtol=1e-4, atol=1e-4)
    assert (logprobs["a"] - logprobs["c"]).abs().max() > 0.1
    again = response_logprobs(actors.ready(ARMS["a"]), batch)
    assert torch.equal(again, logprobs["a"])  # nothing of it is left behind


def test_nothing_of_an_arm_is_left_in_the_next(actors):
    ours = actors.ready(ARMS["d"])
    assert ours.config.uses_cpl and ours.config.speed.share_prompts
    grad = list(ours.config.cpl.grad)
    for letter in ("c", "e", "d-all", "d-share_images"):
        assert actors.ready(ARMS[letter]) is ours
    assert not ours.config.speed.share_images and not ours.config.speed.share_prompts
    assert ours.config.speed.gate_first
    actors.ready(ARMS["d"])
    assert ours.config.uses_cpl and ours.config.speed.share_images
    assert ours.config.cpl.grad == grad


def gradient(actor, batch, monkeypatch) -> torch.Tensor:
    """Of one step as one vector; the weights stay as they are."""
    taken = []

    def keep() -> dict[str, float]:
        for parameter in actor.model.parameters():
            taken.append(parameter.grad.full_tensor().flatten().clone())
        return {}

    monkeypatch.setattr(actor, "optimizer_step", keep)
    train_step(actor, batch)
    monkeypatch.undo()
    actor.optimizer_zero_grad()
    return torch.cat(taken)


def published_loss(model, item: dict, row: int, advantage: float) -> torch.Tensor:
    """The verl recipe's CPL of one response, before its coefficient; fp64."""
    length = int(item["attention_mask"][row].sum())
    n_response = int(item["loss_mask"][row].sum())
    ids = item["input_ids"][row : row + 1, :length]
    images = item["multi_modal_input"][row]
    logs = {}
    for name in ("pixel_values", "negative", "positive"):
        logits = model(
            input_ids=ids,
            mm_token_type_ids=item["mm_token_type_ids"][row : row + 1, :length],
            pixel_values=images[name],
            image_grid_thw=images["image_grid_thw"],
            use_cache=False,
        ).logits[0, -n_response - 1 : -1]
        logs[name] = torch.log_softmax(logits.double(), -1)
    anchor, negative, positive = logs.values()
    labels = ids[0, -n_response:].tolist()
    gains = {}
    for t in range(n_response):
        h, h_negative = (
            -sum(p * math.log(p) for p in log[t].exp().tolist())
            for log in (anchor, negative)
        )
        if h_negative > h:
            gains[t] = (h_negative - h) / (h_negative + 1e-6)
    ranked = sorted(gains, key=gains.get, reverse=True)
    chosen = ranked[: max(1, len(ranked) // 2)]
    assert advantage > 0 and 1 < len(chosen) < n_response

    def divergence(view, t):
        ratio = view[t, labels[t]] - anchor[t, labels[t]]
        return torch.exp(ratio) - ratio - 1

    margins = [divergence(positive, t) - divergence(negative, t) for t in chosen]
    return sum(torch.log1p(torch.exp(m / 0.1)) for m in margins) / len(chosen)


def test_the_published_gradient(model, monkeypatch):
    """Two responses of a group, each a micro-batch; the first is right."""
    correct_image_positions()
    folder, config = model
    workload = Workload(
        image=56, prompt=6, response=16, group=2, groups=1, positive=0.5, max_tokens=40
    )
    batch = with_views(make_batch(workload, config, PatchLayout()), PatchLayout(), 1)
    published = replace(PublishedActor.published, coef=COEF)
    with quiet():
        actors = Actors(folder, workload)
        try:
            stock = gradient(actors.ready(ARMS["a"]), batch, monkeypatch)
            monkeypatch.setattr(PublishedActor, "published", published)
            actor = actors.ready(ARMS["b"])
            with monkeypatch.context() as patch:
                both = gradient(actor, batch, patch)
        finally:
            actors.close()
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    loss = published_loss(plain, batch[0], 0, advantage=1.0)
    lengths = workload.response_lengths()
    (COEF * loss * lengths[0] / sum(lengths)).backward()
    expected = torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in plain.parameters()
        ]
    )
    assert expected.norm() > 0.1 * stock.norm()
    difference = (both - stock - expected).norm() / expected.norm()
    assert difference < 1e-3
