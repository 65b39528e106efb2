"""Model cards: read back by huggingface_hub, run as they stand, never written over.

Not covered: the hub itself, vLLM, and SGLang, which takes such folders in every run.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from areal_cppo.cli.main import main
from areal_cppo.report.card import may_replace, write_cards
from areal_cppo.report.runs import load_run
from tests.report.conftest import RunFolder

TINY = Path(__file__).parents[2] / "areal_cppo/tasks/triangles/checkpoint"
CONFIG = """seed: 1
fileroot: /home/someone/areal
admin_api_key: sk-123
train_dataset: {{path: {data}, batch_size: 32}}
valid_dataset: {{path: {data}, split: test}}
data: {{source: custom, max_pixels: 5000, instruction: "Think.\\nSay \\\\boxed{{}}."}}
actor: {{objective: cppo, path: {path}, use_lora: false, optimizer: {{lr: 1.0e-6}},
  cpl: {{coef: 0.01}}, papo: {{gamma: 0.5}}}}
gconfig: {{n_samples: 8, max_new_tokens: 512}}
reward: {{function: /home/someone/reward.py:judge, weights: {{right: 1.0}}}}
"""


@pytest.fixture
def run(run_folder) -> RunFolder:
    """An unfinished run with two checkpoints, of which the second is the best."""
    run_folder.metrics(8).config(CONFIG.format(path="Qwen/Base-3B", data="owner/data"))
    outcomes = {0: "0010", 4: "0111", 8: "0110"}
    records = [
        {"step": s, "accuracy": c.count("1") / 4, "n": 4, "correct": c, "k": 3}
        for s, c in outcomes.items()
    ]
    records[1] |= {"average_at_k": 0.625, "of": "validation"}
    run_folder.lines("evaluations.jsonl", records)
    for step in (4, 8):
        folder = run_folder.folder / f"checkpoints/step-{step:05d}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (run_folder.folder / "checkpoints/step-00009.part").mkdir()
    return run_folder


def cards(run: RunFolder, **options) -> list[str]:
    paths = write_cards(load_run(run.folder), **options)
    return [path.read_text(encoding="utf-8") for path in paths]


def test_the_hub_reads_what_the_run_was(run):
    best, last = cards(run)
    card = ModelCard(best)
    told = card.data.to_dict()
    assert (told["base_model"], told["datasets"]) == ("Qwen/Base-3B", ["owner/data"])
    assert told["library_name"] == "transformers"
    assert told["pipeline_tag"] == "image-text-to-text"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.75)
    assert (result.dataset_type, result.dataset_split) == ("owner/data", "test")
    for said in (
        "after\n4 steps of reinforcement learning. This folder holds a whole model.",
        "| before training | 25.0 % | 4.6 % to 69.9 % | 4 |",
        "| this checkpoint (step 4) | 75.0 % | 30.1 % to 95.4 % | 4 |",
        "Change: +50.0 points (95 % interval",
        "Mean of 3 sampled responses to each problem: 62.5 %.",
        "actor.cpl.coef: 0.01",
        'reward.function: "reward.py:judge"',
        "reward.weights.right: 1.0",
        "Pictures of more than 5,000 pixels",
        "vllm serve MODEL",
    ):
        assert said in best, said
    assert "flattered" in best and "flattered" not in last
    assert ModelCard(last).data.eval_results[0].metric_value == 0.5
    assert "sampled responses" not in last
    for hidden in ("someone", "sk-123", "/tmp", str(run.folder), "papo"):
        assert hidden not in best + last


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("Qwen/Base-3B", "Qwen/Base-3B"),
        ("/x/hub/models--Qwen--Base-3B/snapshots/0a1b2c", "Qwen/Base-3B"),
        ("/home/someone/Base-3B", None),
        ("models/my/Base-3B", None),
    ],
)
def test_the_base_model_is_named_as_the_hub_does(run, path, base):
    run.config(CONFIG.format(path=path, data="/home/someone/data.jsonl"))
    card = ModelCard(cards(run)[0])
    assert (card.data.base_model, card.data.datasets) == (base, None)
    assert "someone" not in card.content
    assert "Base-3B" in card.content
    assert "data of the user's own that it was not trained on" in card.content


@pytest.mark.parametrize("lacks", ["config.yaml", "evaluations.jsonl"])
def test_what_is_not_known_is_said(run, lacks):
    (run.folder / lacks).unlink()
    card = ModelCard(cards(run)[1])
    assert "/home" not in card.content
    if lacks == "evaluations.jsonl":
        assert "Not measured on problems" in card.text
        assert not card.data.eval_results


def test_a_card_that_was_worked_on_stays(run, capsys):
    folder, words = run.folder / "checkpoints", ["card", str(run.folder)]
    assert main([*words, "--base-model", "owner/other"]) == 0
    first = folder / "step-00004/README.md"
    assert capsys.readouterr().out.splitlines()[0] == str(first)
    assert main(words) == 0  # as it was written: it may be written anew
    assert ModelCard.load(first).data.base_model == "owner/other"
    edited = first.read_text().replace("## Accuracy", "## My words")
    first.write_text(edited)
    (folder / "step-00008/README.md").unlink()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "changed since" in message
    assert not (folder / "step-00008/README.md").exists()
    assert len(cards(run, keep_edited=True)) == 1  # as at the end of a run
    assert first.read_text() == edited


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["none"], "expected a run's folder, found none"),
        (["run", "--checkpoint", "none"], "--checkpoint: .* found no folder at none"),
        (["run", "--checkpoint", "run"], "--checkpoint: .* found neither in run"),
        (["run", "--checkpoint", "mine"], "--step: expected the step after which mine"),
        (["run", "--step", "4"], "--step: expected --checkpoint"),
        (["run", "--base-model", "/a/b"], "--base-model: expected a name on the hub"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, capsys, words, found):
    shutil.copytree(run.folder / "checkpoints/step-00004", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["card", *words]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and re.search(found, message)
    assert not list(tmp_path.rglob("README.md"))


def test_a_folder_of_another_name(run, tmp_path):
    shutil.copytree(run.folder / "checkpoints/step-00004", tmp_path / "mine")
    (text,) = cards(run, checkpoint=tmp_path / "mine", step=8)
    assert "this checkpoint (step 8)" in text


def test_no_checkpoints(run_folder, capsys):
    run_folder.metrics(1)
    assert cards(run_folder) == []
    assert main(["card", str(run_folder.folder)]) == 2
    assert "expected checkpoints/step-*" in capsys.readouterr().err


@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "adapters"])
def test_the_code_of_a_card_runs(run, tmp_path, monkeypatch, adapters):
    """In plain transformers, as it stands; adapters are in the weights it makes."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForImageTextToText

    from areal_cppo.tasks.problems import QUESTION

    folder = run.folder / "checkpoints/step-00008"
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    plain = AutoModelForImageTextToText.from_pretrained(TINY)
    if adapters:
        torch.manual_seed(0)
        settings = LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, lora_alpha=8
        )
        tuned: PeftModel = get_peft_model(plain, settings)
        (folder / "model.safetensors").unlink()
        tuned.save_pretrained(folder)
        assert may_replace(folder / "README.md")  # PEFT's form
        plain = tuned.merge_and_unload()
    _, text = cards(run)
    assert ("LoRA adapters of rank 4" in text) == adapters
    assert ("--max-lora-rank 8 --lora-modules cppo=MODEL" in text) == adapters
    (code,) = re.findall(r"````python\n(.*?)````", text, re.DOTALL)
    # Its tokenizer knows few words.
    question = re.escape('"What is in the picture?"')
    code, found = re.subn(rf"{question}\nquestion \+= .*", f"{QUESTION!r}", code)
    assert found
    code = code.replace("MODEL", str(folder)).replace("Qwen/Base-3B", str(TINY))
    code = code.replace("max_new_tokens=512", "max_new_tokens=1")
    Image.new("RGB", (84, 84), "white").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["answer"].shape == (1, 1)
    found = names["model"].state_dict()
    for name, weights in plain.state_dict().items():
        torch.testing.assert_close(found[name], weights)


@pytest.mark.parametrize("noted", ["", "[]", json.dumps({"r": "?"})])
def test_adapters_that_note_no_rank_break_no_report(run, noted):
    (run.folder / "checkpoints/step-00004/adapter_config.json").write_text(noted)
    assert "LoRA adapters, not the model" in cards(run)[0]
