"""CPPO and its peers on two and four data-parallel ranks over gloo: as one, no hang.

Gates are uneven, empty on some ranks, and one rank may have no image at all. Every case
runs in the same processes (see ranks.py), and on one rank.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.step import harness, ranks

SECONDS = 300  # a hang ends here, and fails
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * SECONDS),  # a test may run two worlds
]


@pytest.fixture(scope="module")
def results(model_folder, tmp_path_factory):
    """Results by world size, each made when the first test asks for it."""
    folder = tmp_path_factory.mktemp("ranks")
    made = {}

    def of(world: int):
        if world not in made:
            out = folder / f"{world}.pt"
            script = Path(ranks.__file__)
            harness.run_ranks(script, world, model_folder, out, seconds=SECONDS)
            made[world] = torch.load(out)
        return made[world]

    return of


WORLDS = [2, 4]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ranks.CASES)
def test_ranks_equal_one(results, world, case):
    (one, one_stats), (many, many_stats) = results(1)[case], results(world)[case]
    assert one.norm() > 0.1
    assert harness.relative_difference(many, one) < 1e-5
    assert many_stats == pytest.approx(one_stats, rel=1e-4)


@pytest.mark.parametrize("world", WORLDS)
def test_whole_weights_are_gathered_from_uneven_shards(results, world):
    """As they are sent to servers; AReaL takes shards on the CPU to be equally long."""
    one, many = results(1)["weights"], results(world)["weights"]
    assert any(len(weight) % world for weight in one.values())
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


@pytest.mark.parametrize("world", [1, *WORLDS])
def test_mini_batches_are_those_of_all_ranks(results, world):
    """Three wanted: a rank of one group cuts it; where one has two responses there are
    two. Weighted by their tokens they add up to the whole update's gradient."""
    (whole,), _ = results(1)["divided"][0]
    gradients, tokens = results(world)["divided"][1]
    assert len(gradients) == (2 if world == 4 else 3)
    together = (gradients * (tokens / tokens.sum())[:, None]).sum(0)
    assert harness.relative_difference(together, whole) < 1e-5


@pytest.mark.parametrize("world", [1, *WORLDS])
def test_groups_without_a_signal_are_those_of_all_ranks(results, world):
    """Of five groups; the sixth is a response alone. All are cut off."""
    expected = [4 / 5, 1 / 5, 2 / 5, 1.0]
    expected = dict(zip(ranks.SIGNALS, expected, strict=True))
    assert results(world)["signals"] == pytest.approx(expected)


@pytest.mark.parametrize("world", [1, *WORLDS])
def test_not_a_number_on_one_rank_leaves_the_policy_update_alone(results, world):
    """The views of one rank poison CPL; all ranks leave it out, and none waits."""
    policy, _ = results(1)["policy loss alone"]
    for case in ("poisoned first rank", "poisoned last rank"):
        gradient, stats = results(world)[case]
        assert torch.isfinite(gradient).all()
        assert harness.relative_difference(gradient, policy) < 1e-5
        update = "ppo_actor/update/cpl"
        assert stats[f"{update}/skipped_responses"] == 4
        assert stats[f"{update}/view_sequences"] == 4
        assert f"{update}/loss" not in stats
    gradient, stats = results(world)["PAPO, poisoned"]
    assert harness.relative_difference(gradient, policy) < 1e-5
    assert stats["ppo_actor/update/papo/skipped_responses"] == 7
