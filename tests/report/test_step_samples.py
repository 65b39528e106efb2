"""Samples of a run's own steps: read, bounded, and shown in the report."""

import json
from pathlib import Path

import pytest
from PIL import Image

from areal_cppo.report.html import report_html
from areal_cppo.report.runs import load_run
from areal_cppo.report.step_samples import (
    MOST_TOKENS,
    first_middle_last,
    read_step_samples,
)
from tests.report.test_html import Page

EVIL = "<script>alert(1)</script>"


def shown(run_folder) -> Page:
    return Page(report_html(load_run(run_folder.folder), []))


def test_the_page_shows_first_middle_and_last(run_folder):
    run_folder.metrics(9).step_samples(1, 3, 5, 7, 9)
    page = shown(run_folder)
    details = [each for each in page.all("details") if each.get("class") == "step"]
    assert [("open" in each) for each in details] == [False, False, True]
    for step in (1, 5, 9):
        assert f"Step {step}\n" in page.text
    assert "Step 3\n" not in page.text and "Of 5 steps" in page.text
    for said in (
        "Problem problem-0",
        "(answer: 15)",
        "reward 1 (answer 1, format 1)",
        "advantage 0.5",
        "policy version 3 to 4 (1 old)",
        "Refused: vision_token",
        "2 pictures",
        "not gated",
    ):
        assert said in page.text or any(
            said in each.get("aria-label", "") for each in page.all("button")
        ), said
    assert "samples.json is missing" not in page.text
    sources = [each["src"] for each in page.all("img")]
    assert any(source.startswith("data:image/webp;base64,") for source in sources)
    labels = [each["aria-label"] for each in page.all("ol") if "aria-label" in each]
    assert len(labels) == len(set(labels)) == 3  # one of each step has numbers


def test_perception_tokens_are_marked_and_plain_text_has_no_buttons(run_folder):
    run_folder.metrics(1).step_samples(1)
    page = shown(run_folder)
    tokens = [e for e in page.all("button") if "token" in e.get("class", "")]
    assert [("chosen" in each["class"]) for each in tokens] == [False, False, True]
    assert "plain <b>text</b>" in page.text  # escaped, and shown as it is
    run_folder.step_samples(1, tokens=False)
    page = shown(run_folder)
    assert not page.all("button") and "Entropy gain 0" not in page.text


@pytest.mark.parametrize("count", range(6))
def test_which_steps_are_chosen(count):
    files = [Path(f"step-{step:05d}.json") for step in range(99_998, 99_998 + count)]
    chosen = first_middle_last(files[::-1])
    assert chosen == sorted(set(chosen), key=files.index)
    assert len(chosen) == min(count, 3)
    if count:
        assert chosen[0] == files[0] and chosen[-1] == files[-1]


def test_a_long_response_has_numbers_for_its_first_tokens(run_folder):
    n = MOST_TOKENS + 3
    columns = {
        "text": [f"w{i} " for i in range(n)],
        "gain": [0.1] * n,
        "selected": [True] * n,
        "anchor_entropy": [0.1] * n,
        "negative_entropy": [0.1] * n,
    }
    path = run_folder.step_samples(1, columns=columns).folder / "samples"
    sample = read_step_samples(path / "step-00001.json").responses[0]
    assert len(sample.tokens) == MOST_TOKENS
    assert sample.text == "".join(columns["text"][MOST_TOKENS:])
    assert "3 more tokens" in sample.notes[0]


def test_a_file_that_is_none_is_noted_and_the_others_are_shown(run_folder):
    run_folder.metrics(2).step_samples(1, 2)
    (run_folder.folder / "samples" / "step-00001.json").write_text('{"step": 1')
    page = shown(run_folder)
    assert (
        "samples/step-00001.json is left out" in page.text and "Step 2\n" in page.text
    )


@pytest.mark.parametrize("name", ["../../private.webp", "/etc/passwd", "gone.webp"])
def test_pictures_are_of_the_folder_only(run_folder, name):
    folder = run_folder.step_samples(1).folder / "samples"
    Image.new("RGB", (9, 9)).save(folder.parent.parent / "private.webp")
    whole = json.loads((folder / "step-00001.json").read_text())
    whole["responses"][0]["pictures"] = {"anchor": name}
    (folder / "step-00001.json").write_text(json.dumps(whole))
    sample = read_step_samples(folder / "step-00001.json").responses[0]
    assert sample.anchor is None and sample.kinds == ()


def test_hostile_text_is_escaped(run_folder):
    hostile = {"question": EVIL, "response": EVIL, "answer": EVIL, "query_id": EVIL}
    run_folder.metrics(1).step_samples(1, tokens=False, **hostile)
    html = report_html(load_run(run_folder.folder), [])
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
