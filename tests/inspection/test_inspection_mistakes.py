"""Mistakes of `areal-cppo views` and `areal-cppo inspect`: told in one line, soon."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from areal_cppo.cli.main import main
from tests.inspection.drawn import CONFIG, MODEL, run_folder


def refusal(capsys, *arguments: object) -> str:
    """The one line that a mistake is answered with."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, line = captured.err.splitlines()  # before it, what is being done
    return line


def test_wrong_paths_and_keys_are_told_before_torch_is_imported(tmp_path, image_file):
    out, image = ["-o", f"{tmp_path}/x.html"], str(image_file)
    override = ["--config", CONFIG, "actor.cpl.top=1"]
    mistakes = [
        ["views", "/no.png", *out],
        ["views", CONFIG, *out],
        ["views", image, "--model", "/no", *out],
        ["views", image, *override, *out],
        ["inspect", "--model", "/no", "--image", image, "--prompt", "?", *out],
        ["inspect", "--run", "/no", *out],
    ]
    code = (
        "import sys; from areal_cppo.cli.main import main;"
        f"print([main(mistake) for mistake in {mistakes!r}],"
        "{'torch', 'transformers', 'areal'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{[2] * len(mistakes)} set()\n", done.stderr


@pytest.fixture
def broken_model(tmp_path):
    """Folders that are no model for this, by name."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        shutil.copytree(MODEL, folder)
        config = folder / "config.json"
        if kind == "no-processor":
            (folder / "processor_config.json").unlink()
        elif kind == "other-family":
            known = json.loads(config.read_text())
            config.write_text(json.dumps(known | {"model_type": "llava"}))
        elif kind == "no-weights":
            (folder / "model.safetensors").unlink()
        return folder

    return make


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no-processor", "--model: expected an image processor in"),
        ("other-family", "--model: expected a model of type qwen2_vl, qwen2_5_vl"),
        ("no-weights", "--model: expected weights that transformers loads"),
    ],
)
def test_models_that_cannot_be_inspected(
    tmp_path, capsys, image_file, broken_model, kind, words
):
    line = refusal(
        *(capsys, "inspect", "--model", broken_model(kind), "--image", image_file),
        *("--prompt", "P?", "-o", tmp_path / "x.html"),
    )
    assert words in line
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--image": "/no/such.png"}, "image: expected an image file, found none"),
        ({"--image": CONFIG}, "image: expected a PNG, JPEG"),
        ({"--image": None}, "--image: expected the picture"),
        ({"--prompt": " "}, "--prompt: expected a question"),
        ({"--prompt": None}, "--prompt: expected a question"),
        (
            {"--prompt": "<image><image>?"},
            "--prompt: expected one <image> for each of 1",
        ),
        ({"--prompt": "area?"}, "--prompt: expected text that the model's processor"),
        ({"--response": ""}, "--response: expected a text to judge"),
        ({"--model": "/no/model"}, "--model: expected a model folder"),
        ({"-o": "/proc/x.html"}, "-o: expected a file that can be written"),
        ({"-o": "x.png"}, "-o: expected a name that ends in .html"),
        ({"--temperature": "-1"}, "--temperature: expected a number >= 0"),
        ({"--temperature": "nan"}, "--temperature: expected a number >= 0"),
        ({"--max-new-tokens": "0"}, "--max-new-tokens: expected a number >= 1"),
        ({"--device": "abacus"}, "--device: expected cpu or a device"),
        ({"--config": "/no.yaml"}, "config: expected a YAML file"),
    ],
)
def test_mistakes_of_inspect(tmp_path, capsys, image_file, changed, words):
    options = {
        "--model": MODEL,
        "--image": str(image_file),
        "--prompt": "P?",
        "-o": str(tmp_path / "x.html"),
    } | changed
    given = [
        part
        for option, value in options.items()
        if value is not None
        for part in (option, value)
    ]
    assert words in refusal(capsys, "inspect", *given)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "{tmp}"], "--run: expected a run's folder with config.yaml"),
        (["--run", "{run}"], "--run: expected checkpoints/step-*"),
        (["--run", "{run}", "--response", "x"], "--response: expected --image"),
        (
            ["--run", "{run}", "--config", CONFIG],
            "--config: expected none beside --run",
        ),
    ],
)
def test_mistakes_of_inspect_with_a_run(tmp_path, capsys, arguments, words):
    run = run_folder(tmp_path / "run", ())
    given = [part.format(tmp=tmp_path, run=run) for part in arguments]
    assert words in refusal(capsys, "inspect", *given, "-o", tmp_path / "x.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/no/such.png"], "image: expected an image file, found none"),
        ([CONFIG], "image: expected a PNG, JPEG"),
        (["{image}", "--draws", "0"], "--draws: expected 1 to 50, found 0"),
        (["{image}", "--model", "/no"], "--model: expected a model's folder with an"),
        (["{image}", "--config", "/no.yaml"], "config: expected a YAML file"),
        (["{image}", "seed=1"], "expected --config FILE beside key=value, found seed"),
        (["{image}", "-o", "x.tiff"], "-o: expected a name that ends in .png"),
        (["{image}", "-o", "/proc/x.png"], "-o: expected a file that can be written"),
        (
            [
                "{image}",
                "--config",
                CONFIG,
                "actor.cpl.views.negative=[{{name: blurr}}]",
            ],
            "cpl.views.negative[0].name: expected one of",
        ),
    ],
)
def test_mistakes_of_views(tmp_path, capsys, image_file, arguments, words):
    given = [part.format(image=image_file) for part in arguments]
    target = [] if "-o" in given else ["-o", str(tmp_path / "x.png")]
    assert words in refusal(capsys, "views", *given, *target)
    assert not (tmp_path / "x.png").exists()
