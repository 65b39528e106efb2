"""DAPO and Dr. GRPO through the real actor: rewards, clip and divisor, by hand.

Covers what their recipes set; dynamic sampling is in tests/rollout/test_workflow.py,
the whole recipes are in test_recipe_actors.py and tests/config.
"""

from __future__ import annotations

import math

import pytest
import torch
from areal.api.cli_args import MicroBatchSpec, NormConfig
from areal.utils.data import concat_padded_tensors

from tests.step import harness, naive

LENGTHS, REWARDS = [4, 10, 6, 8], [1.0, 0.0, 0.0, 1.0]


@pytest.fixture
def config(actor):
    """The actor's configuration, as it was after the test."""
    names = ("loss_divisor", "max_new_tokens", "eps_clip", "eps_clip_higher")
    names += ("overlong_reward_penalty", "overlong_tokens", "overlong_penalty_factor")
    before = {name: getattr(actor.config, name) for name in names}
    actor.config.objective = "grpo"
    yield actor.config
    for name, value in before.items():
        setattr(actor.config, name, value)


def group() -> list[dict]:
    """Four responses to a prompt, in an item as the workflow returns them."""
    return [concat_padded_tensors(harness.group(1, LENGTHS, REWARDS, (4, 4)))]


def advantages(item: dict) -> list[set[float]]:
    rows = zip(item["advantages"], item["loss_mask"].bool(), strict=True)
    return [{round(float(x), 4) for x in row[mask]} for row, mask in rows]


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_dr_grpo_divides_by_neither_deviation_nor_length(
    actor, config, model_folder, micro_batches
):
    """Loss: minus the sum of (R - mean) log p over all tokens, / (responses * 64)."""
    config.reward_norm = NormConfig(mean_level="group", std_level=None, group_size=4)
    config.loss_divisor, config.max_new_tokens = "max_tokens", 64
    config.mb_spec = MicroBatchSpec(n_mbs=micro_batches)
    items = harness.prepared(actor, group())
    assert advantages(items[0]) == [{0.5}, {-0.5}, {-0.5}, {0.5}]
    gradient, _ = harness.update_gradient(actor, items)

    model, total = naive.load(model_folder), 0.0
    members = harness.group(1, LENGTHS, REWARDS, (4, 4))
    for item, advantage in zip(members, (0.5, -0.5, -0.5, 0.5), strict=True):
        total = total - advantage * naive.logprobs(model, item).sum()
    reference = naive.gradient(model, total / (4 * 64))
    assert harness.relative_difference(gradient, reference) < 1e-5

    config.loss_divisor = "tokens"
    of_tokens, _ = harness.update_gradient(actor, items)
    scaled = of_tokens * sum(LENGTHS) / (4 * 64)
    assert harness.relative_difference(gradient, scaled) < 1e-5


@pytest.mark.parametrize(
    ("ratio", "reward", "counts"),
    [
        (1.25, 1.0, True),  # within 1.28
        (1.3, 1.0, False),
        (0.75, -1.0, False),  # below 0.8
        (0.85, -1.0, True),
        (1.3, -1.0, True),  # never clipped where it makes the loss larger
    ],
)
def test_dapo_clips_further_above_than_below(
    actor, config, model_folder, ratio, reward, counts
):
    """A token's gradient is minus ratio times advantage; none where it is clipped."""
    config.eps_clip, config.eps_clip_higher = 0.2, 0.28
    (item,) = harness.prepared(actor, [harness.trajectory(1, 9, reward)])
    mask = item["loss_mask"].bool()
    item["prox_logp"] = item["prox_logp"] - math.log(ratio) * mask
    gradient, stats = harness.update_gradient(actor, [item])
    assert stats["ppo_actor/update/importance_weight/avg"] == pytest.approx(ratio, 1e-4)
    if not counts:
        assert gradient.eq(0).all()
        return
    model = naive.load(model_folder)
    mean = naive.logprobs(model, harness.trajectory(1, 9, reward)).mean()
    reference = naive.gradient(model, -reward * ratio * mean)
    assert harness.relative_difference(gradient, reference) < 1e-4


def test_dapo_takes_reward_off_long_responses(actor, config):
    """Of 10 tokens the last 4 cost up to .5: lengths 4, 10, 6 and 8 lose 0, .5, 0, .25;
    the rewards that are recorded stay as judged."""
    config.max_new_tokens, config.overlong_tokens = 10, 4
    config.overlong_reward_penalty, config.overlong_penalty_factor = True, 0.5
    (item,) = harness.prepared(actor, group())
    assert advantages(item) == [{1.0}, {-0.5}, {0.0}, {0.75}]
    assert item["rewards"].tolist() == REWARDS
    assert torch.equal(item["loss_mask"].sum(-1), torch.tensor(LENGTHS).float())
