"""`areal-cppo views` and `areal-cppo inspect`, from the command line to the file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from areal_cppo.cli.main import main
from areal_cppo.report.samples import TokenView, write_samples
from tests.inspection.drawn import CONFIG, MODEL, run_folder


def written(capsys, *arguments: object) -> Path:
    """The file that a command writes, whose name is all that it prints."""
    assert main([str(argument) for argument in arguments]) == 0
    return Path(capsys.readouterr().out.strip())


def test_sheet_as_a_picture(tmp_path, capsys, image_file):
    out = written(capsys, "views", image_file, "-o", tmp_path / "new" / "sheet.png")
    with Image.open(out) as sheet:
        assert sheet.width == 1650 and sheet.height > 1000


@pytest.mark.parametrize("size", [(28, 2000), (2000, 60), (5, 5)])
def test_sheet_of_an_odd_picture(tmp_path, capsys, size):
    Image.new("L", size, 90).save(tmp_path / "odd.jpg")
    out = written(
        *(capsys, "views", tmp_path / "odd.jpg", "-o", tmp_path / "s.png", "--draws", 1)
    )
    with Image.open(out) as sheet:
        assert sheet.width == 1650 and sheet.height < 6000


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_sheet_says_names_strengths_and_kinds(tmp_path, capsys, image_file, ending):
    """Of the configuration, the same for the same seed, another for another."""
    asked = ("views", image_file, "--config", CONFIG, "--draws", 7, "--model", MODEL)
    override = ("actor.cpl.views.negative=[{name: blank, strength: 0.75}]",)
    out = [
        written(
            capsys, *asked, "-o", tmp_path / f"{seed}.{ending}", "--seed", seed, *more
        )
        for seed, more in ((4, override), (5, override))
    ]
    text, other = (path.read_text() for path in out)
    for words in (
        *("color_jitter", "brightness 0.2 to 1.3", "blank", "strength 0.75", "draw 7"),
        *("Positive views: keep the information", "Negative views: remove information"),
        *("shapes.png", "84 x 84", "9 tokens", "triangles.yaml, seed 4"),
    ):
        assert words in text, words
    assert "noise_patches" not in text
    again = written(
        *(capsys, *asked, "-o", tmp_path / f"again.{ending}", "--seed", 4, *override)
    )
    assert again.read_text() == text != other


def test_inspection_of_a_given_response(tmp_path, capsys, image_file):
    out = written(
        *(capsys, "inspect", "--model", MODEL, "--image", image_file, "--prompt", "P?"),
        *("-o", tmp_path / "x.html", "--response", "<think>AB=7</think>\\boxed{7}"),
    )
    page = out.read_text()
    tokens = re.findall(r'class="token(?: [^"]*)?" [^>]*aria-label="([^,]*),', page)
    assert tokens == [
        *("&lt;think&gt;", "A", "B", "=", "7", "&lt;/think&gt;"),
        *("\\boxed{", "7", "}", "&lt;eos&gt;"),
    ]
    assert page.count("data:image/png;base64,") == 3
    assert "a given response" in page and "answer <b>7</b>" in page
    assert "top_fraction: 0.5" in page
    assert not re.search(r"https?://", page)


def test_inspection_follows_the_configuration(tmp_path, capsys, image_file):
    asked = ("inspect", "--model", MODEL, "--image", image_file, "--prompt", "P?")
    one = written(capsys, *asked, "-o", tmp_path / "1.html", "--config", CONFIG)
    two = written(
        *(capsys, *asked, "-o", tmp_path / "2.html", "--config", CONFIG),
        *("--temperature", "1.5", "--seed", "9", "--max-new-tokens", "12"),
    )
    assert "entropies at temperature 1 ·" in one.read_text()
    page = two.read_text()
    assert "sampled at temperature 1.5" in page and "seed 9" in page
    assert page.count("<button") <= 12


def test_last_checkpoint_of_a_run(tmp_path, capsys):
    run = run_folder(tmp_path / "run", (9, 10))
    page = written(
        *(capsys, "inspect", "--run", run, "-o", tmp_path / "r.html", "--seed", 3)
    ).read_text()
    assert "run, step-00010" in page
    assert page.count("<article") == 3
    assert page.count("After training") >= 3
    assert len(re.findall("✓ correct|✗ wrong", page)) == 3
    assert "that read a digit are among them" in page


def test_written_samples_of_a_run(tmp_path, capsys):
    """No model is needed."""
    from areal_cppo.report.samples import SampleView

    run = run_folder(tmp_path / "run", ())
    tokens = [TokenView("seven", 0.5, 0.1, 0.2, True)]
    image = Image.new("RGB", (8, 8))
    write_samples(
        run,
        [
            SampleView(
                f"Problem {n}", "P?", image, image, image, tokens, True, "7", 1.0, n
            )
            for n in ("before", "after")
        ],
    )
    page = written(
        capsys, "inspect", "--run", run, "-o", tmp_path / "r.html"
    ).read_text()
    assert "the samples that the run wrote" in page and "seven" in page


def test_own_question_to_a_run(tmp_path, capsys, image_file):
    run = run_folder(tmp_path / "run", (2,))
    page = written(
        *(capsys, "inspect", "--run", run, "-o", tmp_path / "r.html"),
        *("--image", image_file, "--prompt", "P?", "--response", "\\boxed{3}"),
    ).read_text()
    assert "Inspection of step-00002" in page and "config.yaml" in page


@pytest.mark.slow
@pytest.mark.parametrize("command", ["views", "inspect"])
def test_in_a_process_of_its_own(tmp_path, image_file, command):
    """Where nothing has made torchvision importable yet; it prints a line."""
    out = tmp_path / "x.html"
    arguments = {
        "views": ["views", str(image_file)],
        "inspect": ["inspect", "--model", MODEL, "--prompt", "P?"]
        + ["--image", str(image_file), "--max-new-tokens", "3"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "areal_cppo", *arguments, "-o", str(out)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert out.is_file()
