"""What `--model` may name: a folder, LoRA adapters, and mistakes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from areal_cppo.cli.common import config_file
from areal_cppo.cli.main import main
from areal_cppo.errors import UserError
from areal_cppo.evaluation.model import MERGED, fingerprint, model_folder
from areal_cppo.tasks.problems import TRIANGLES
from areal_cppo.tasks.sampling import problem_pixels
from areal_cppo.tasks.tokenizer import PROMPT_IDS


@pytest.fixture
def adapters(tmp_path):
    """A folder of adapters that do something, as training writes it."""
    model = AutoModelForImageTextToText.from_pretrained(TRIANGLES.checkpoint)
    torch.manual_seed(0)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    tuned = get_peft_model(model, settings)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path / "adapters"
    tuned.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    ids = torch.tensor([PROMPT_IDS])
    with torch.no_grad():
        return model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=problem_pixels([TRIANGLES.make_problem(0, 0, "held_out")]),
            image_grid_thw=torch.tensor([[1, 6, 6]]),
        ).logits


def test_adapters_become_part_of_the_weights(adapters, tmp_path):
    notes: list[str] = []
    merged = model_folder(str(adapters), tmp_path / "out", notes.append)
    assert merged == tmp_path / "out" / MERGED and len(notes) == 1
    load = AutoModelForImageTextToText.from_pretrained
    base = load(TRIANGLES.checkpoint).eval()
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(base, adapters).eval())
    found = logits(load(merged).eval())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - before).abs().max() > 0.1
    assert AutoProcessor.from_pretrained(merged).image_processor.patch_size == 14
    again = model_folder(str(adapters), tmp_path / "out", notes.append)
    assert again == merged and len(notes) == 1  # made once


def test_adapters_without_their_base_are_refused(adapters, tmp_path):
    set_settings(adapters, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="expected the base model .* found nothing at"):
        model_folder(str(adapters), tmp_path / "out", print)


def renamed(old: str, new: str):
    return lambda weights: {key.replace(old, new): weights[key] for key in weights}


def of_rank_8(weights):
    return {k: torch.cat([w, w], int("lora_B" in k)) for k, w in weights.items()}


UNFIT = {  # what is done to the weights or the settings, and what is found
    "no name fits": (renamed("layers", "blocks"), "12 tensor(s) without a place in it"),
    "some don't": (renamed("layers.1", "layers.9"), "4 tensor(s) without a place"),
    "some are missing": (
        lambda weights: dict(list(weights.items())[:5]),
        "7 tensor(s) missing, as base_model",
    ),
    "other adapters": (lambda weights: {"x.lora_A.weight": torch.ones(1, 1)}, "found "),
    "another rank": (of_rank_8, "size mismatch"),
    "NaN": (lambda weights: {k: w * torch.nan for k, w in weights.items()}, "NaNs"),
    "the settings' rank": ({"r": 8}, "size mismatch"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "6 tensor(s) without a place"),
    "more targets": ({"target_modules": ["q_proj", "v_proj", "k_proj"]},
                     "tensor(s) missing"),
    "no target": ({"target_modules": ["nothing"]}, "not found in the base model"),
    "no LoRA": ({"peft_type": "IA3"}, "adapters of type IA3"),
    "no settings": ("adapter_config.json", "an unreadable adapter_config.json"),
    "damaged": ("adapter_model.safetensors", "SafetensorError"),
    "gone": (None, "no adapter_model.safetensors"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # PEFT's, of missing names
@pytest.mark.parametrize("change, found", UNFIT.values(), ids=UNFIT)
def test_adapters_that_do_not_fit_are_refused(adapters, tmp_path, change, found):
    """PEFT would merge what fits, which may be nothing at all."""
    weights = adapters / "adapter_model.safetensors"
    if change is None:
        weights.unlink()
    elif isinstance(change, str):
        (adapters / change).write_bytes(b"{")
    elif isinstance(change, dict):
        set_settings(adapters, **change)
    else:
        save_file(change(load_file(weights)), weights)
    refuse(adapters, tmp_path / "out", found)


def test_adapters_of_a_larger_model_are_refused(adapters, tmp_path):
    config = AutoModelForImageTextToText.from_pretrained(TRIANGLES.checkpoint).config
    config.text_config.hidden_size *= 2
    config.vision_config.out_hidden_size *= 2
    base = shutil.copytree(TRIANGLES.checkpoint, tmp_path / "base")
    AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    set_settings(adapters, base_model_name_or_path=str(base))
    refuse(adapters, tmp_path / "out", "size mismatch")
    (base / "model.safetensors").unlink()
    refuse(adapters, tmp_path / "out", "expected weights of the base model")


def test_names_of_older_transformers_fit(adapters, tmp_path):
    """PEFT knows them; they are not taken for strangers."""
    merged = model_folder(str(adapters), tmp_path / "new", print)
    weights = adapters / "adapter_model.safetensors"
    older = renamed("model.model.language_model", "model.model")(load_file(weights))
    save_file(older, weights)
    again = model_folder(str(adapters), tmp_path / "old", print)
    first, second = (load_file(f / "model.safetensors") for f in (merged, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def set_settings(adapters, **changed) -> None:
    file = adapters / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def refuse(adapters, out, found: str) -> None:
    """In one line, and nothing is written."""
    with pytest.raises(UserError) as refused:
        model_folder(str(adapters), out, print)
    line = str(refused.value)
    assert line.startswith("--model: expected") and found in line
    assert str(adapters) in line and len(line.splitlines()) == 1
    assert not out.exists()


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = TRIANGLES.checkpoint
    assert model_folder(str(folder), tmp_path, print) == folder


def test_weights_that_were_written_over_are_other_weights(tmp_path):
    folder = shutil.copytree(TRIANGLES.checkpoint, tmp_path / "model")
    before = fingerprint(folder)
    assert before and before == fingerprint(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert fingerprint(folder) != before


def mistake(capsys, *arguments: str) -> str:
    """The one line that a mistake is answered with."""
    config = str(config_file("triangles.yaml"))
    words = [word.replace("CONFIG", config) for word in arguments]
    assert main(["eval", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("areal-cppo eval: ") and "expected" in line
    return line


@pytest.mark.parametrize(
    "model, found",
    [
        ("nowhere", "found nothing at nowhere"),
        ("nobody/nothing", "`hf download nobody/nothing`"),
        ("EMPTY", "found none; give a folder"),
        ("BARE", "expected an image processor"),
    ],
)
def test_models_that_are_none(capsys, tmp_path, monkeypatch, model, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BARE").mkdir()
    (tmp_path / "BARE" / "config.json").write_text("{}")
    assert found in mistake(capsys, "--model", model, "--config", "CONFIG")
    assert not list(tmp_path.glob("runs/eval-*"))


@pytest.mark.parametrize(
    "arguments, found",
    [
        (["--k", "-1"], "--k: expected a number >= 0, found -1"),
        (["--limit", "0"], "--limit: expected a number >= 1, found 0"),
        (["--server", "http://127.0.0.1:9"], "--server: expected a running server"),
        (["heldout.size=0"], "heldout.size: expected at least 1, found 0"),
        (["sglang.device=null"], "sglang.device: expected cpu"),
        (["gconfig.temperatur=1"], "did you mean temperature"),
    ],
)
def test_other_mistakes(capsys, tmp_path, monkeypatch, arguments, found):
    monkeypatch.chdir(tmp_path)
    fixed = ["--model", str(TRIANGLES.checkpoint), "--config", "CONFIG"]
    assert found in mistake(capsys, *fixed, *arguments)
    assert not list(tmp_path.glob("runs/eval-*"))
