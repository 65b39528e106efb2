"""A fresh actor that loads a checkpoint goes on to the last bit, on one rank and two.

The run around it: tests/recover.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from areal_cppo.errors import RunError
from tests.step import families, harness, recover_ranks

SECONDS = 240


@pytest.fixture(scope="module")
def train(model_folder, tmp_path_factory):
    """Results by rank of `recover_ranks.py`; `of` is the world that saved."""
    folder = tmp_path_factory.mktemp("recover")

    def run(world: int, mode: str, of: int | None = None) -> list[dict]:
        checkpoint = folder / f"checkpoint-{of or world}"
        checkpoint.mkdir(exist_ok=True)
        out = folder / f"{mode}-{world}-{of}"
        script = Path(recover_ranks.__file__)
        harness.run_ranks(
            script, world, model_folder, out, checkpoint, mode, seconds=SECONDS
        )
        return [
            torch.load(f"{out}-{rank}", weights_only=False) for rank in range(world)
        ]

    return run


@pytest.mark.slow
@pytest.mark.timeout(4 * SECONDS)
def test_going_on_is_exact(train):
    for world in (1, 2):
        whole, resumed = train(world, "whole"), train(world, "resumed")
        for a, b in zip(whole, resumed, strict=True):
            assert a["lr"] == b["lr"] and a["draws"] == b["draws"]
            assert a["weights"].keys() == b["weights"].keys()
            for name, value in a["weights"].items():
                assert torch.equal(value, b["weights"][name]), name
            assert len(a["moments"]) == len(b["moments"]) > 0
            assert all(map(torch.equal, a["moments"], b["moments"]))
        draws = [result["draws"] for result in whole]
        assert world == 1 or draws[0] != draws[1]  # each rank has its own
    # On another number of ranks all is sharded anew.
    (alone,) = train(1, "resumed", of=2)
    for name, value in whole[0]["weights"].items():
        assert harness.relative_difference(alone["weights"][name], value) < 1e-3, name


def test_adapters_go_on(tmp_path):
    name = "qwen2_5_vl"
    folder = families.make_folder(name, tmp_path / "model")
    actor = families.lora_actor(folder, ["all-linear"])
    batch = harness.prepared(actor, families.mixed_batch(name))

    def trained() -> dict[str, torch.Tensor]:
        actor.ppo_update([dict(item) for item in batch])
        actor.step_lr_scheduler()
        return {
            key: parameter.detach().full_tensor().clone()
            for key, parameter in actor.model.named_parameters()
        }

    trained()
    (tmp_path / "checkpoint").mkdir()
    actor.save_training_state(str(tmp_path / "checkpoint"))
    expected = trained()
    actor.load_training_state(str(tmp_path / "checkpoint"))
    found = trained()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_torn_rank_file_is_one_line(tmp_path, actor):
    actor.save_training_state(str(tmp_path))
    (tmp_path / "rank-00000.pt").write_bytes(b"torn")
    with pytest.raises(RunError, match="expected a readable .*rank-00000.pt"):
        actor.load_training_state(str(tmp_path))
