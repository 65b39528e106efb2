"""What doesn't fit together is refused, a line each; what works is let through.

The starting points are shipped configurations (test_shipped_configs.py shows that they
have no violation). Not covered: whether the memory of a GPU suffices.
"""

from __future__ import annotations

import pytest

from areal_cppo.config.models import read_model_config
from areal_cppo.config.resources import check_resources, gpus, violations
from areal_cppo.errors import UserError
from tests.config.shipped import FULL, LORA

PUBLISHED = "qwen2_5_vl-3b_virl39k_published.yaml"

TURNS = [  # AReaL's colocation: trainer and servers take turns on the same GPUs
    "actor.backend=fsdp:d8",
    "rollout.backend=sglang:d8",
    "rollout.scheduling_strategy={type: colocation, target: actor}",
    "actor.weight_update_mode=disk",
    "enable_offload=true",
    "sglang.enable_memory_saver=true",
]


@pytest.fixture
def found(load):
    def found(name: str, *overrides: str) -> list[str]:
        config = load(name, *overrides)
        return violations(config, read_model_config(config.actor.path))

    return found


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        (FULL, ["actor.backend=fsdp:d8"], "trainer 8 + generation 4 = 12"),
        (FULL, ["rollout.backend=sglang:d2"], "expected 8 GPUs in all"),
        (FULL, ["rollout.backend=sglang:d2t4"], "generation 8 = 12"),
        (FULL, ["cluster.n_gpus_per_node=4"], "expected 4 GPUs in all"),
        (FULL, ["cluster.n_nodes=2"], "2 node(s) x 8"),
        (
            FULL,
            [
                "cluster.n_nodes=2",
                "actor.backend=fsdp:d8",
                "rollout.backend=sglang:d8",
            ],
            "areal-cppo slurm --nodes 2",
        ),
        (
            FULL,
            [
                "cluster.n_gpus_per_node=2",
                "actor.backend=fsdp:d2",
                "rollout.backend=sglang:d2",
            ],
            "trainer 2 + generation 2 = 4",
        ),
        (PUBLISHED, ["ref.scheduling_strategy.type=separation"], "reference 4 = 12"),
        (FULL, ["actor.scheduling_spec.0.gpu=0"], "expected gpu: 1"),
        (LORA, ["actor.weight_update_mode=xccl"], "two processes on one GPU"),
        (FULL, [*TURNS, "actor.weight_update_mode=xccl"], "two processes on one GPU"),
        (FULL, [*TURNS, "enable_offload=false"], "expected both true"),
        (FULL, [*TURNS, "sglang.enable_memory_saver=false"], "expected both true"),
        (FULL, ["train_dataset.batch_size=62"], "a multiple of the trainer's 4"),
        (FULL, ["actor.ppo_n_minibatches=3"], None),  # whole groups are dealt out
        (FULL, ["actor.ppo_n_minibatches=129"], "at most a rank's 128 responses"),
        (PUBLISHED, ["actor.ppo_n_minibatches=16", "gconfig.n_samples=4"], None),
        (PUBLISHED, ["actor.ppo_n_minibatches=16", "gconfig.n_samples=3"], None),
        (PUBLISHED, ["actor.ppo_n_minibatches=641"], "a rank's 640 responses"),
        (FULL, ["actor.mb_spec.n_mbs=129"], "no more micro-batches than the 128"),
        (FULL, ["actor.reward_norm.group_size=4"], "reward_norm.group_size"),
        (FULL, ["sglang.context_length=4095"], "2048 of the prompt + 2048 of the re"),
        (FULL, ["sglang.context_length=4096"], None),
        (FULL, ["data.max_prompt_tokens=2400"], "sglang.context_length"),
        (FULL, ["actor.mb_spec.max_tokens_per_mb=4095"], "max_tokens_per_mb"),
        (FULL, ["gconfig.max_tokens=4000"], "gconfig.max_tokens"),
        (LORA, ["sglang.max_total_tokens=2000"], "sglang.max_total_tokens"),
        (FULL, ["actor.max_new_tokens=100"], "actor.max_new_tokens: expected gconfig"),
        (FULL, ["sglang.context_length=128001"], "at most the model's 128000"),
        (LORA, ["rollout.use_lora=false"], "rollout.use_lora: expected True"),
        (FULL, ["rollout.use_lora=true"], "rollout.use_lora: expected False"),
        (LORA, ["sglang.enable_lora=null"], "sglang.enable_lora: expected true"),
        (LORA, ["sglang.max_lora_rank=16"], "sglang.max_lora_rank"),
        (LORA, ["sglang.max_loaded_loras=7"], "expected 8 or more"),
        (LORA, ["rollout.max_head_offpolicyness=6"], "expected 9 or more"),
        (LORA, ["actor.target_modules=[q_proj, up_proj]"], "found up_proj, which"),
        (LORA, ["actor.target_modules=[all-linear]"], "found all-linear, which"),
        (LORA, ["actor.target_modules=[]"], "found all-linear, which"),
        ("triangles.yaml", ["gconfig.max_new_tokens=300"], "sglang.context_length"),
        ("triangles.yaml", ["train_dataset.batch_size=7"], None),
        ("triangles.yaml", ["actor.backend=fsdp:d2"], None),
        (
            FULL,  # a GPU each: nothing is shared, NCCL will do
            [
                "cluster.n_gpus_per_node=2",
                "actor.backend=fsdp:d1",
                "rollout.backend=sglang:d1",
            ],
            None,
        ),
        (FULL, TURNS, None),
        (
            LORA,
            [
                "cluster.n_gpus_per_node=8",
                "actor.backend=fsdp:d4",
                "rollout.backend=sglang:d4",
            ],
            None,
        ),
        (FULL, ["scheduler.type=slurm", "rollout.backend=sglang:d2"], None),
        (FULL, ["actor.backend=fsdp:d2", "rollout.backend=sglang:d3t2"], None),
    ],
)
def test_violations(found, name, overrides, words):
    """Words of None: it works, so nothing is said."""
    said = found(name, *overrides)
    if words is None:
        assert said == []
        return
    assert any(words in line for line in said), said
    for line in said:
        assert "\n" not in line and "expected" in line and "found" in line


def test_all_are_found_and_the_first_is_told(load):
    config = load(FULL, "actor.backend=fsdp:d8", "actor.mb_spec.max_tokens_per_mb=9")
    model_config = read_model_config(config.actor.path)
    assert len(violations(config, model_config)) == 2
    with pytest.raises(UserError, match=r"(?s)^2 things to mend\n.*12.*\n"):
        check_resources(config, model_config)


def test_a_gpu_counts_once(load):
    assert gpus(load(PUBLISHED)) == {"trainer": 4, "generation": 4, "reference": 0}
    assert gpus(load(FULL, *TURNS)) == {"trainer": 8, "generation": 0}
    assert gpus(load(LORA)) == {"trainer": 1, "generation": 1}


def test_a_sliding_window_that_would_cut_is_refused(load):
    """The recipe's longest sequence has 2,048 + 2,048 tokens; the 3B has no window."""
    config = load(FULL)
    text = {"max_position_embeddings": 32768, "sliding_window": 4095}
    for layout in (text, {"text_config": text}):
        assert violations(config, layout) == []
        (layout.get("text_config") or layout)["use_sliding_window"] = True
        assert "window of 4095 tokens, found 4096" in violations(config, layout)[0]
        text["sliding_window"] = 4096
        assert violations(config, layout) == []
        text |= {"sliding_window": 4095, "use_sliding_window": False}


def test_kernels_of_gpus_are_refused_without_them(load):
    config = load("triangles.yaml", "actor.dtype=bfloat16")
    model_config = read_model_config(config.actor.path)
    assert violations(config, model_config) == []
    for kernel in ("torch_flash", "flash_attention_2"):
        config.actor.attn_impl = kernel
        (said,) = violations(config, model_config)
        assert said.startswith("actor.attn_impl: expected sdpa without GPUs")


def test_vision_layers_are_those_of_the_model(load):
    """Qwen2-VL's vision tower has no gate_proj; Qwen3-VL's has names of its own."""
    config = load(LORA, "actor.target_modules=[q_proj, gate_proj, linear_fc1]")
    text = {"max_position_embeddings": 32768}
    for model, named in (
        ("qwen2_vl", None),
        ("qwen2_5_vl", "found gate_proj, which"),
        ("qwen3_vl", "found linear_fc1, which"),
        ("qwen3", None),
    ):
        said = violations(config, {"model_type": model, "text_config": text})
        assert len(said) == (named is not None)
        assert named is None or named in said[0]
