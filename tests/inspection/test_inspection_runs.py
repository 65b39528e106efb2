"""`areal-cppo inspect --run` of a run on real data, and of LoRA adapters.

The models are tiny and random: what they answer is noise, how it is judged is not.
"""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from areal_cppo.cli.main import main
from areal_cppo.config.experiment import load_config
from areal_cppo.folder import RunFolder
from areal_cppo.inspection.judging import Asking
from areal_cppo.inspection.model import VisionModel
from areal_cppo.inspection.run_samples import (
    checkpoint_samples,
    write_heldout_samples,
)
from areal_cppo.inspection.settings import read_settings
from areal_cppo.report.samples import read_samples
from areal_cppo.tasks.experiment import load_task
from areal_cppo.tasks.problems import TRIANGLES
from tests.data.problem_files import build_processor, geometry3k
from tests.step import families

CONFIG = Path(__file__).parents[2] / "configs" / "triangles.yaml"


@pytest.fixture
def reading_model(tmp_path) -> Path:
    """A random Qwen2.5-VL whose tokenizer reads any text, a byte a token."""
    processor = build_processor()
    config = families.tiny_config("qwen2_5_vl")
    tokenizer = processor.tokenizer
    known = tokenizer.get_vocab()
    config.text_config.vocab_size = len(known)
    for part in (config, config.text_config):
        part.eos_token_id = tokenizer.eos_token_id
        part.pad_token_id = tokenizer.pad_token_id
    config.image_token_id = known["<|image_pad|>"]
    config.video_token_id = known["<|video_pad|>"]
    config.vision_start_token_id = known["<|vision_start|>"]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("validation", [True, False])
def test_last_checkpoint_on_real_problems(tmp_path, capsys, reading_model, validation):
    geometry3k(tmp_path / "geo", n=20)
    geometry3k(tmp_path / "geo", n=2, split="test")
    run = tmp_path / "run"
    shutil.copytree(reading_model, run / "checkpoints" / "step-00003")
    config = yaml.safe_load(CONFIG.read_text())
    config |= {
        "tokenizer_path": str(reading_model),
        "data": {"source": "geometry3k"},
        "heldout": {"size": 0},
    }
    config["train_dataset"]["path"] = str(tmp_path / "geo")
    if validation:
        path = str(tmp_path / "geo")
        config["valid_dataset"] = {"path": path, "type": "rl", "batch_size": 1}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "x.html"
    done = main(["inspect", "--run", str(run), "-o", str(out), "--max-new-tokens", "9"])
    assert done == 0, capsys.readouterr().err
    page = out.read_text()
    kind = "Validation" if validation else "Training"
    assert page.count("<article") == (2 if validation else 3)
    assert f"{kind} problem 1" in page
    assert "if two different sides are equal" in page and "(answer: " in page
    assert "✗ wrong" in page and "reads a digit" not in page


def test_samples_of_a_run_are_what_inspecting_its_checkpoint_shows(tmp_path):
    """The task's own batched passes and transformers' generate: the same page."""
    run = RunFolder(tmp_path / "run").create()
    overrides = [f"run_dir={run.path}", f"actor.path={TRIANGLES.checkpoint}"]
    config = load_config(CONFIG, overrides)
    both = dict.fromkeys(("before", "after"), TRIANGLES.checkpoint)
    write_heldout_samples(run, load_task(config), both)
    shutil.copy(CONFIG, run.config)
    inspected = checkpoint_samples(
        *(run, VisionModel(TRIANGLES.checkpoint), Asking(limit=40)),
        read_settings(CONFIG, []),
    )
    after = [s for s in read_samples(run.path) if s.policy == "after"]
    for own, other in zip(after, inspected, strict=True):
        for kind in ("anchor", "positive", "negative"):
            assert getattr(own, kind).tobytes() == getattr(other, kind).tobytes()
        same = ("correct", "answer", "policy", "perturbations", "title")
        for name in same:
            assert getattr(own, name) == getattr(other, name)
        assert own.reward == pytest.approx(other.reward)
        for one, two in zip(own.tokens, other.tokens, strict=True):
            assert (one.text, one.role, one.selected) == (
                *(two.text, two.role, two.selected),
            )
            assert one.numbers == pytest.approx(two.numbers, abs=2e-4)


def test_adapters_are_put_into_their_base(tmp_path, capsys, image_file):
    base = AutoModelForImageTextToText.from_pretrained(TRIANGLES.checkpoint)
    torch.manual_seed(0)
    tuned = get_peft_model(
        base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    tuned.peft_config["default"].base_model_name_or_path = str(TRIANGLES.checkpoint)
    tuned.save_pretrained(tmp_path / "adapters")
    pages = []
    for model in (tmp_path / "adapters", TRIANGLES.checkpoint):
        out = tmp_path / f"{model.name}.html"
        asked = ("--image", str(image_file), "--prompt", "P?", "--response", "15")
        assert main(["inspect", "--model", str(model), *asked, "-o", str(out)]) == 0
        pages.append(out.read_text())
    assert "Inspection of adapters" in pages[0]
    numbers = [page.partition("<tbody>")[2] for page in pages]
    assert numbers[0] != numbers[1]
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "adapters.html"),
        str(tmp_path / "checkpoint.html"),
    ]
