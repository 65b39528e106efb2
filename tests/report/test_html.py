"""The report page: well-formed, self-contained, escaped, and honest about gaps.

How it works in a browser is in test_browser.py. Not covered: how it looks (judged by
eye, in Chromium, light and dark).
"""

import base64
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from areal_cppo.report.headline import facts
from areal_cppo.report.html import report_html, write_report
from areal_cppo.report.runs import load_run
from areal_cppo.report.sample_html import token_text
from areal_cppo.report.samples import TokenView, write_samples

VOID = {"meta", "img", "br", "link", "input", "hr", "source"}
SVG_CONTENT = {"path", "circle", "text"}  # written closed or self-closed


class Page(HTMLParser):
    """Checks that tags balance and collects what the tests ask about."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert tag in VOID | SVG_CONTENT

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(run_folder) -> Page:
    return Page(write_report(run_folder.folder).read_text(encoding="utf-8"))


def page_without_plots(run_folder) -> Page:
    """For what has nothing to do with plots, which take most of a report's time."""
    return Page(report_html(load_run(run_folder.folder), plots=[]))


@pytest.fixture(scope="module")
def full_page(full_folder) -> Page:
    path = full_folder.folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def pictures(run_folder) -> set[str]:
    return {path.stem for path in (run_folder.folder / "report_files").iterdir()}


COMMON = {"learning", "staleness", "timeline", "step_time"}
CPL = {"cpl", "gain", "selection", "shortcut"}


def test_full_run(full_folder, full_page):
    seen = full_page
    everything = COMMON | CPL | {"timeline_zoom"}
    assert pictures(full_folder) == everything
    assert "CPPO: GRPO with the Contrastive Perception Loss" in seen.text
    assert "Seed 1 · 12 training steps" in seen.text
    assert "Paired: image by image" in seen.text
    assert "What this report lacks" not in seen.text
    assert "Warnings during the run" not in seen.text
    assert "Not described here" not in seen.text
    assert "reads a digit off the image" in seen.text
    assert len(seen.all("img")) == len(everything) + 4 * 3 + 2 * 5
    assert [attrs.get("lang") for attrs in seen.all("html")] == ["en"]


def test_grpo_run_has_no_cpl_plots_and_misses_nothing(run_folder):
    seen = page(run_folder.full(steps=12, objective="grpo"))
    assert pictures(run_folder) == COMMON | {"timeline_zoom"}
    assert "GRPO, without the Contrastive Perception Loss" in seen.text
    assert "What this report lacks" not in seen.text


def test_interrupted_run_says_what_is_missing(run_folder):
    seen = page(run_folder.metrics(2).timeline(2).config())
    assert pictures(run_folder) == COMMON | CPL
    for words in ("Not measured", "summary.json is missing", "samples.json is missing"):
        assert words in seen.text


def test_run_without_a_step(run_folder):
    (run_folder.folder / "metrics.jsonl").write_text("")
    seen = page(run_folder)
    assert pictures(run_folder) == set()
    assert "No training step is recorded yet" in seen.text


def test_only_the_first_evaluation(run_folder):
    seen = page_without_plots(run_folder.evaluations([0]))
    assert "Measured before training only" in seen.text


def test_one_bare_step(run_folder):
    run_folder.lines("metrics.jsonl", [{"step": 1, "seconds": 3.0, "cpl_loss": 0.7}])
    assert "1 training step ·" in page(run_folder).text
    assert pictures(run_folder) == {"cpl"}


def test_long_run(run_folder):
    run_folder.timeline(420, requests=9).config()
    assert "the share of time spent so" in page(run_folder).text


def test_unknown_metric_is_listed(run_folder):
    run_folder.lines("metrics.jsonl", [{"step": 1, "seconds": 1, "moon_phase": 0.25}])
    assert "moon_phase" in page_without_plots(run_folder).text


def test_warnings_are_shown_with_their_steps(run_folder):
    steps = [run_folder.step(n) for n in range(1, 5)]
    steps[1]["warnings"] = ["the share of tokens rose & rose", "a second one"]
    steps[3]["warnings"] = ["<b>a third</b>"]
    run_folder.lines("metrics.jsonl", steps)
    text = page(run_folder).text
    box = text[text.index("Warnings during the run") :].split()
    lines = """Warnings during the run
        Step 2: the share of tokens rose & rose
        Step 2: a second one
        Step 4: <b>a third</b>""".split()
    assert box[: len(lines)] == lines
    assert text.index("Warnings during") < text.index("Held-out accuracy")


@pytest.mark.parametrize(
    ("refused", "number", "words"),
    [
        ({"vision_token": 0}, "0", "every response was fit to train on"),
        ({"a": 25, "b": 7}, "32", "25.0 % of these and those trained on: a 25, b 7"),
        ({"a": 32, "group_dropped": 2}, "32", "trained on: a 32; 2 groups dropped"),
        ({"a": 0, "group_dropped": 1}, "0", "1 group dropped"),
        ({"a": 0, "group_all_equal": 7}, "0", "7 of equal rewards dropped"),
        ({"a": "some"}, "0", "every response was fit to train on"),
    ],
)
def test_refused_responses_as_a_share(run_folder, refused, number, words):
    run_folder.lines("metrics.jsonl", [{"step": 1, "samples": 96, "refused": refused}])
    run = load_run(run_folder.folder)
    (fact,) = (fact for fact in facts(run) if fact.label == "Refused responses")
    assert fact.value == number and fact.words.endswith(words)


def test_warnings_of_another_shape_break_nothing(run_folder):
    record = {"step": 1, "seconds": 1.0, "warnings": "none"}
    run_folder.lines("metrics.jsonl", [record, {"step": 2, "warnings": [3, None]}])
    assert "Step 2: 3 Step 2: None" in " ".join(
        page_without_plots(run_folder).text.split()
    )


def test_divergence_without_a_share_and_the_reverse(run_folder):
    record = {"step": 1, "cpl_unselected_divergence": 0.1, "cpl_gain_p50": 0.2}
    run_folder.lines("metrics.jsonl", [record])
    page(run_folder)
    assert pictures(run_folder) == {"shortcut"}  # a median alone is no band
    run_folder.lines("metrics.jsonl", [{"step": 1, "cpl_anchor_entropy": 0.1}])
    page(run_folder)
    assert pictures(run_folder) == {"gain"}


def test_nothing_comes_from_outside(full_folder, full_page):
    html = (full_folder.folder / "report.html").read_text()
    # Base64 has slashes of its own; what it holds is looked at below, as files.
    html = re.sub(r"(data:image/[a-z+]+;base64,)[A-Za-z0-9+/=]+", r"\1", html)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", html)
    for tag, attrs in full_page.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "srcset"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))
    for path in (full_folder.folder / "report_files").iterdir():
        svg = path.read_text()
        outside = re.findall(r'(?:href|src)="(?!#)[^"]*"|<!DOCTYPE|<metadata', svg)
        assert outside == []


def test_pictures_are_embedded_as_they_are_written(full_folder, full_page):
    embedded = {
        base64.b64decode(attrs["src"].split(",")[1]).decode()
        for attrs in full_page.all("img")
        if attrs["src"].startswith("data:image/svg")
    }
    folder = full_folder.folder / "report_files"
    assert embedded == {path.read_text() for path in folder.iterdir()}


def test_every_picture_has_words(full_page):
    for attrs in full_page.all("img"):
        assert len(attrs["alt"]) > 20


def test_every_token_is_a_button_that_says_its_numbers(run_folder):
    sample = run_folder.sample(0, "after")
    write_samples(run_folder.metrics(1).folder, [sample])
    buttons = [
        attrs
        for attrs in page_without_plots(run_folder).all("button")
        if "token" in attrs["class"].split()
    ]
    assert len(buttons) == len(sample.tokens)
    for token, button in zip(sample.tokens, buttons, strict=True):
        shown = unescape(token_text(token.text))
        assert f"{shown}, entropy gain {token.gain:.2f}" in button["aria-label"]
        assert ("perception token" in button["aria-label"]) == token.selected
        assert ("chosen" in button["class"]) == token.selected


def test_table_holds_every_number(run_folder):
    """Those that are known; columns of which none is, are left out."""
    known = (0.25, 0.75, 0.5, 0.125, 0.0625, 2.5)
    tokens = [
        TokenView("7", 0.4321, 0.1, 0.2, True, "R", *known),
        TokenView("!", 0.0, 0.3, 0.31, False),
    ]
    write_samples(
        run_folder.metrics(1).folder,
        [run_folder.sample(0, "after", tokens=tokens), run_folder.sample(1, "after")],
    )
    seen = page_without_plots(run_folder).text
    for number in ("0.432", "0.100", "0.200", "0.250", "0.750", "0.500", "0.125"):
        assert number in seen
    assert "0.062" in seen and "2.500" in seen and "R: reads a digit" in seen
    assert seen.count("Probability, anchor") == 1
    assert seen.count("Entropy, anchor, nats") == 2


def test_images_that_responses_share_are_shown_once(run_folder):
    before = run_folder.sample(0, "before")
    images = {
        kind: getattr(before, kind) for kind in ("anchor", "positive", "negative")
    }
    after = run_folder.sample(0, "after", **images)
    write_samples(run_folder.metrics(1).folder, [before, after])
    pictures = [
        a for a in page_without_plots(run_folder).all("img") if "sample" in a["alt"]
    ]
    assert len(pictures) == 3


def test_page_may_ask_nothing_of_any_network(full_page):
    (policy,) = [
        attrs["content"]
        for attrs in full_page.all("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_hostile_text_stays_text(run_folder):
    evil = "<script>alert('x')</script>\"'&<img src=x onerror=y>"
    texts = (evil, "\x00\x1b[31m", "\u202e", "\n", "")
    tokens = [TokenView(text, 0.5, 0.1, 0.2, True, evil) for text in texts]
    sample = run_folder.sample(
        0, "after", tokens=tokens, title=evil, prompt=evil, answer=evil
    )
    write_samples(run_folder.folder, [sample])
    run_folder.lines("metrics.jsonl", [{"step": 1, "seconds": 1, evil: 1}])
    run_folder.json(
        "summary.json", {"objective": evil, "refused": {evil: 2}, "seed": evil}
    )
    run_folder.config(f"seed: 1\nnote: {evil}")
    run_folder.json("timeline.json", {"training": [[0, 1, evil]]})
    seen = page(run_folder)
    html = (run_folder.folder / "report.html").read_text()
    assert len(seen.all("script")) == 1
    assert not any("onerror" in attrs for _, attrs in seen.tags)
    assert seen.text.count("alert('x')") >= 8
    assert "\x00" not in html and "\x1b" not in html


def test_config_hides_secrets_and_places(run_folder):
    text = (
        f"fileroot: {run_folder.folder}/logs\nadmin_api_key: sk-123\n"
        "max_tokens: 64\nwandb_api_key: ''\n"
    )
    seen = page_without_plots(run_folder.metrics(1).config(text))
    assert "sk-123" not in seen.text
    assert "max_tokens: 64" in seen.text
    assert "RUN/logs" in seen.text
    assert str(run_folder.folder) not in seen.text


def test_same_run_same_report(full_folder):
    first = (full_folder.folder / "report.html").read_bytes()
    assert write_report(full_folder.folder).read_bytes() == first
