"""Which worker goes to which node, and what is refused; no Slurm needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from areal_cppo.cluster.layout import Place, make_layout
from areal_cppo.cluster.slurm import worker_environment
from areal_cppo.config.experiment import load_config
from areal_cppo.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def gpu_config(actor: str, rollout: str, *more: str):
    return load_config(
        CONFIGS / "qwen2_5_vl-3b_geometry3k.yaml",
        [f"actor.backend={actor}", f"rollout.backend={rollout}", *more],
    )


def cpu_config(trainers: int, servers: int):
    return load_config(
        CONFIGS / "triangles.yaml",
        [f"actor.backend=fsdp:d{trainers}", f"rollout.backend=sglang:d{servers}"],
    )


def test_roles_on_disjoint_nodes():
    layout = make_layout(gpu_config("fsdp:d8", "sglang:d4t2"), nodes=2)
    assert layout.nodes_of("actor") == [0]
    assert layout.nodes_of("rollout") == [1]
    assert [place.gpus for place in layout.places["actor"]] == [(i,) for i in range(8)]
    assert [p.gpus for p in layout.places["rollout"]] == [
        (0, 1),
        (2, 3),
        (4, 5),
        (6, 7),
    ]
    assert layout.cpus_per_node() == 64  # 8 cores a GPU


def test_one_node_is_shared_with_disjoint_gpus():
    layout = make_layout(gpu_config("fsdp:d4", "sglang:d2t2"), nodes=1)
    owned = [gpu for places in layout.places.values() for p in places for gpu in p.gpus]
    assert sorted(owned) == list(range(8))
    assert layout.nodes_of("actor") == layout.nodes_of("rollout") == [0]


def test_trainer_and_server_share_the_only_gpu():
    lora = CONFIGS / "qwen2_5_vl-3b_geometry3k_lora_24gb.yaml"
    layout = make_layout(load_config(lora, ["scheduler.type=allocation"]), nodes=1)
    assert {name: place.gpus for name, (place,) in layout.places.items()} == {
        "actor": (0,),
        "rollout": (0,),
    }
    assert layout.cpus_per_node() == 16


def test_no_gpu_is_given_twice():
    layout = make_layout(gpu_config("fsdp:d12", "sglang:d20"), nodes=4)
    owned = [
        (place.node, gpu)
        for places in layout.places.values()
        for place in places
        for gpu in place.gpus
    ]
    assert sorted(owned) == [(node, gpu) for node in range(4) for gpu in range(8)]


def test_reference_has_a_place_of_its_own():
    config = gpu_config(
        "fsdp:d4",
        "sglang:d8",
        "actor.kl_ctl=0.1",
        "+ref.backend=fsdp:d4",
        "ref.path=${actor.path}",
        "ref.experiment_name=a",
        "ref.trial_name=b",
        "ref.attn_impl=flash_attention_2",
        "ref.scheduling_spec=${actor.scheduling_spec}",
    )
    layout = make_layout(config, nodes=2)
    assert [place.gpus for place in layout.places["ref"]] == [(4,), (5,), (6,), (7,)]


@pytest.mark.parametrize("nodes", (1, 3))
def test_another_number_of_gpus_is_refused(nodes):
    with pytest.raises(UserError, match=r"--nodes: expected 16 GPUs .*use --nodes 2"):
        make_layout(gpu_config("fsdp:d8", "sglang:d8"), nodes=nodes)


def test_a_server_on_two_nodes_is_refused():
    config = gpu_config("fsdp:d6", "sglang:d2t4", "cluster.n_gpus_per_node=7")
    with pytest.raises(UserError, match="rollout.backend: expected servers that fit"):
        make_layout(config, nodes=2)


def test_generation_nodes_are_compared_with_the_backends():
    config = gpu_config("fsdp:d8", "sglang:d8")
    assert make_layout(config, 2, generation_nodes=1)
    with pytest.raises(UserError, match="--generation-nodes: expected 1.*found 2"):
        make_layout(config, 2, generation_nodes=2)


def test_without_gpus_nodes_are_divided():
    layout = make_layout(cpu_config(2, 4), nodes=4)
    assert layout.nodes_of("actor") == [0]
    assert layout.nodes_of("rollout") == [1, 2, 3]
    layout = make_layout(cpu_config(2, 4), nodes=4, generation_nodes=2)
    assert [place.node for place in layout.places["actor"]] == [0, 1]
    assert [place.node for place in layout.places["rollout"]] == [2, 2, 3, 3]


@pytest.mark.parametrize("nodes, generation", ((3, None), (2, 2), (1, 2)))
def test_a_node_without_a_worker_is_refused(nodes, generation):
    with pytest.raises(UserError, match="--nodes: expected at least a worker a node"):
        make_layout(cpu_config(1, 1), nodes, generation)


def test_a_worker_sees_its_own_gpus_whatever_slurm_calls_them():
    step = {"CUDA_VISIBLE_DEVICES": "1,3,GPU-ab,7", "SLURM_PROCID": "0"}
    mine = worker_environment(step, rank=5, positions=[2, 3])
    assert mine["CUDA_VISIBLE_DEVICES"] == "GPU-ab,7"
    assert mine["SLURM_PROCID"] == "5"
    assert worker_environment(step, 0, [])["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(SystemExit, match="expected 5 or more GPUs"):
        worker_environment(step, 0, [4])


def test_a_place_without_gpus_says_so():
    assert make_layout(cpu_config(1, 1), 1).places["actor"] == (Place(0, (), 1),)
