"""What several fields have to agree in, what is let through, and where a key is told.

Not covered: whether a value that is let through is a good one.
"""

from __future__ import annotations

import pytest
from transformers import AutoProcessor

from areal_cppo.config import TASK_NAMES
from areal_cppo.errors import UserError
from areal_cppo.run import preflight
from areal_cppo.tasks.problems import ReadingDataset, reading_task
from tests.config.shipped import FULL, LORA

DEMO, PUBLISHED = "triangles.yaml", "qwen2_5_vl-3b_virl39k_published.yaml"
BATCH = ["actor.reward_norm.mean_level=batch", "actor.reward_norm.std_level=batch"]


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        # The sampled distribution is the trained one.
        (DEMO, ["gconfig.temperature=0"], "gconfig.temperature: expected 0.01 or more"),
        (DEMO, ["gconfig.temperature=0.0001"], "gconfig.temperature: expected 0.01"),
        (DEMO, ["actor.temperature=0.7"], "actor.temperature: expected gconfig.temp"),
        (DEMO, ["gconfig.greedy=true"], "gconfig.greedy: expected false"),
        (DEMO, ["gconfig.top_p=0.5"], "gconfig.top_p: expected 1, found 0.5"),
        (DEMO, ["gconfig.top_k=50"], "gconfig.top_k: expected -1"),
        (DEMO, ["gconfig.frequency_penalty=1"], "gconfig.frequency_penalty: expected"),
        (PUBLISHED, ["ref.temperature=0.7"], "ref.temperature: expected actor.temper"),
        (DEMO, ["gconfig.stop=[x]"], "gconfig.stop: expected null"),
        # Something to train on.
        (DEMO, ["gconfig.n_samples=1"], "gconfig.n_samples: expected 2 or more"),
        (
            DEMO,
            [*BATCH, "actor.adv_norm={mean_level: group}", "gconfig.n_samples=1"],
            "gconfig.n_samples: expected 2 or more with actor.adv_norm.mean_level",
        ),
        (DEMO, ["actor.overlong_reward_penalty=true"], "actor.overlong_tokens, actor."),
        (DEMO, ["actor.fsdp.per_layer_optim_step=true", "actor.optimizer.type=sgd"],
         "actor.optimizer.type: expected adam with"),
        (DEMO, ["actor.use_sapo_loss=true"], "actor.use_decoupled_loss=false"),
        (DEMO, ["actor.rejection_sampling={metric: kl_k2, action: clamp}"],
         "actor.rejection_sampling.action='clamp'"),
        # One policy, found by all.
        (DEMO, ["sglang.model_path=nonsense"], "sglang.model_path: expected actor.pat"),
        (DEMO, ["rollout.trial_name=other"], "rollout.trial_name: expected trial_name"),
        (DEMO, ["actor.experiment_name=other"], "actor.experiment_name: expected exp"),
        (DEMO, ["critic={backend: 'fsdp:d1', experiment_name: a, trial_name: b}"],
         "critic: expected null"),
        (FULL, ["rollout.scheduling_strategy.type=colocation"],
         "rollout.scheduling_strategy: expected target: actor, found target None"),
        (FULL, ["actor.scheduling_strategy={type: colocation, target: rollout}"],
         "actor.scheduling_strategy: expected separation"),
        (FULL, ["actor.offload=true"], "enable_offload: expected true with actor.off"),
        # Batches and lengths.
        (DEMO, ["rollout.consumer_batch_size=4"], "a step would wait for ever"),
        (DEMO, ["rollout.consumer_batch_size=16"], "samples would be too old"),
        (DEMO, ["rollout.queue_size=4"], "rollout.queue_size: expected 8 or more"),
        (DEMO, ["rollout.dump_to_file=true", "rollout.tokenizer_path=''"],
         "rollout.tokenizer_path, rollout.fileroot: expected both"),
        (DEMO, ["actor.mb_spec.max_tokens_per_mb=44"], "max_tokens_per_mb: expected 5"),
        (DEMO, ["sglang.context_length=56"], "sglang.context_length: expected 57"),
        (DEMO, ["total_train_steps=0"], "total_train_steps: expected 1 or more, or nu"),
        (DEMO, ["seed=4294967290"], "seed: expected at most"),
    ],
)  # fmt: skip
def test_fields_that_do_not_agree_are_refused(told, name, overrides, words):
    line = told(name, *overrides)
    assert words in line and "\n" not in line, line


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        (DEMO, ["gconfig.temperature=0.7"]),
        (DEMO, ["gconfig.top_k=-1", "gconfig.top_p=1"]),
        (DEMO, ["eval_gconfig={greedy: true, temperature: 0, top_p: 0.5, top_k: 50}"]),
        (DEMO, [*BATCH, "gconfig.n_samples=1"]),
        (DEMO, ["gconfig.n_samples=1", "actor.reward_norm=null"]),
        (DEMO, ["actor.adv_norm={mean_level: batch, std_level: null}"]),
        (DEMO, ["actor.optimizer.lr_scheduler_type=cosine", "actor.c_clip=3"]),
        (DEMO, ["actor.optimizer.type=sgd", "actor.optimizer.lr=0"]),
        (DEMO, ["actor.use_decoupled_loss=false", "actor.use_sapo_loss=true"]),
        (DEMO, ["actor.prox_logp_method=loglinear", "actor.eps_clip_higher=null"]),
        (DEMO, ["actor.importance_sampling_level=sequence"]),
        (DEMO, ["actor.rejection_sampling=null", "rollout.agent.mode=subproc"]),
        (DEMO, ["actor.rejection_sampling={metric: kl_k1, upper: -1}"]),
        (DEMO, ["total_train_steps=null", "saver.freq_steps=1", "recover.freq_secs=9"]),
        (DEMO, ["rollout.max_head_offpolicyness=0", "rollout.queue_size=8"]),
        (DEMO, ["rollout.max_concurrent_rollouts=null", "gconfig.stop_token_ids=[3]"]),
        (DEMO, ["gconfig.stop=[x]", "sglang.skip_tokenizer_init=false"]),
        (DEMO, ["actor.overlong_reward_penalty=true", "actor.overlong_tokens=9",
                "actor.overlong_penalty_factor=1"]),
        (DEMO, ["actor.mb_spec.max_tokens_per_mb=57", "sglang.context_length=57"]),
        (DEMO, ["cluster.name_resolve.type=ray", "seed=20261231"]),
        (FULL, ["actor.offload=true", "enable_offload=true"]),
        (FULL, ["actor.dtype=bfloat16", "actor.optimizer_dtype=bf16"]),
        (PUBLISHED, ["actor.kl_ctl=0.1", "gconfig.temperature=0.9"]),
        (PUBLISHED, ["actor.kl_ctl=0", "ref=null"]),
        (LORA, ["actor.lora_rank=8"]),
    ],
)  # fmt: skip
def test_what_areal_documents_is_let_through(told, name, overrides):
    assert told(name, *overrides) == ""


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor.ppo_n_minibatches=0", "actor.ppo_n_minibatches: expected an integer"),
        ("cluster.name_resolve.type=nonsense", "cluster.name_resolve.type: expected o"),
        ("trial_name='my run'", "trial_name: expected a name"),
        ("actor.cpl.tau=-1", "actor.cpl.tau: expected"),
        ("actor.cpl.views.negative=[{name: fog}]", "actor.cpl.views.negative[0].name:"),
        ("actor.rejection_sampling.upper=0.5", "actor.rejection_sampling.upper must b"),
        # What OmegaConf says of these has no key, or half of it.
        ("actor.cpl=5", "actor.cpl: expected keys and values, found 5"),
        ("actor.papo=[]", "actor.papo: expected keys and values, found []"),
        ("heldout=x", "heldout: expected keys and values, found 'x'"),
        ("actor.cpl.views.positive=[a]", "actor.cpl.views.positive: Cannot assign str"),
        ("actor.scheduling_spec=[{cpu: x}]", "actor.scheduling_spec: expected an int"),
        ("rollout=null", "rollout: expected keys and values, found None"),
        ("seed=x", "command line: seed: expected an integer, found 'x'; correct it"),
        ("seed=null", "seed: expected a value, found null; correct it"),
        ("actor.optimizer.lr=fast", "actor.optimizer.lr: expected a number, found 'f"),
        ("actor.use_lora=maybe", "actor.use_lora: expected true or false, found 'm"),
        # What another field takes over is told of the one that was written.
        ("actor.scheduling_spec.0.cpu=0", "actor.scheduling_spec.0.cpu: expected an"),
        ("actor.dtype=fp16", "actor.dtype: expected one of"),
        ("rollout.scheduling_spec=[]", "rollout.scheduling_spec must contain 1"),
        ("gconfig.stop_token_ids=[a]", "gconfig.stop_token_ids"),
    ],
)
def test_the_key_is_told_in_full(load, override, words):
    """Through all of `load_config`."""
    with pytest.raises(UserError) as caught:
        load(DEMO, override)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_service_that_does_not_answer(load):
    where = "cluster.name_resolve.etcd3_addr=localhost"
    with pytest.raises(UserError, match="name_resolve: expected a service"):
        load(DEMO, "cluster.name_resolve.type=etcd3", where)


@pytest.mark.parametrize("path", ["nonsense", "no/such-tokenizer", "''"])
def test_a_tokenizer_that_is_not_there(load, monkeypatch, path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load(DEMO, f"tokenizer_path={path}")
    with pytest.raises(UserError, match="^tokenizer_path: expected") as caught:
        preflight.check_settings(config)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model(load):
    config = load(DEMO)
    with pytest.raises(UserError, match="tokenizer_path: expected at most the 5 tok"):
        preflight.check_tokenizer(config, {"text_config": {"vocab_size": 5}})


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_synthetic_prompt_has_its_tokens(load, name):
    task = reading_task(name)
    processor = AutoProcessor.from_pretrained(task.checkpoint)
    lengths = set()
    for item in ReadingDataset(task, processor, 12, seed=0):
        found = processor(text=[item["messages"]], images=item["images"])
        lengths.add(len(found["input_ids"][0]))
    config = load(DEMO, f"data.source={name}", f"train_dataset.path={name}")
    assert max(lengths) == config.longest_prompt
    assert len(lengths) == (3 if name == "legends" else 1)
