"""The pages that the browser looks at, one of each kind."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from areal_cppo.core import CPLConfig
from areal_cppo.inspection.page import Inspection, inspection_html, sheet_html
from areal_cppo.inspection.sheet import Draw, Sheet, Strip
from areal_cppo.report.compare import write_comparison
from areal_cppo.report.samples import TokenView

PAGES = ("report", "inspection", "views", "compare")
PHONE, DESKTOP = 360, 1280
WORDS = ("<think>", "\n", " The", " side", " is", " 7", ",", " not", " 9", ".")


def write_pages(folder: Path, run, other) -> dict[str, Path]:
    """One file of each kind, of a run with its report and of another."""
    files = {name: folder / f"{name}.html" for name in PAGES}
    files["report"] = run.folder / "report.html"
    files["inspection"].write_text(inspection_page(run), encoding="utf-8")
    files["views"].write_text(views_page(), encoding="utf-8")
    write_comparison([run.folder, other.folder], files["compare"])
    return files


def long_response() -> list[TokenView]:
    """130 words of natural text, each with all numbers, digits selected."""
    tokens = []
    for at, word in enumerate(WORDS * 13):
        gain = 0.5 + 0.002 * at if word.strip().isdigit() else 0.02
        rest = (0.4, 0.9, 0.8, 0.1 + 0.001 * at, 0.01, 1.5)
        tokens.append(TokenView(word, gain, 0.1, 0.5, gain > 0.3, "", *rest))
    return tokens


def inspection_page(run) -> str:
    sample = replace(
        run.sample(0, "after"),
        tokens=long_response(),
        policy=None,
        correct=None,
        reward=None,
        notes=("Cut off after 130 tokens.",),
        perturbations={"positive": "rotation", "negative": "noise_patches"},
    )
    facts = ["greedy response", "views of seed 1"]
    return inspection_html(Inspection("A model", facts, CPLConfig(), [sample]))


def views_page() -> str:
    draws = [
        Draw(Image.new("RGB", (140, 84), color), unchanged=color == "white")
        for color in ("white", "grey", "navy")
    ]
    strips = [
        Strip("positive", "rotation", ["degrees 10"], draws),
        Strip("negative", "noise_patches", ["count 50", "side 0.05 to 0.15"], draws),
    ]
    original = Image.new("RGB", (812, 812), "grey")  # higher than it may be on a page
    return sheet_html(Sheet("Views of x.png", ["812 x 812"], original, strips))
