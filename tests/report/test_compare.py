"""Several runs on one page: names, curves, differences, settings, and what is refused.

How the page works in a browser is in test_browser.py.
"""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo import metrics
from areal_cppo.cli.main import main
from areal_cppo.report import compare
from areal_cppo.report.compare import MOST_RUNS, write_comparison
from areal_cppo.report.settings import differing, distinct_names, flatten
from tests.report.conftest import RunFolder
from tests.report.test_html import Page

CONFIG = """seed: {seed}
experiment_name: name-{seed}
run_dir: /home/someone/{seed}
admin_api_key: secret-{seed}
total_train_steps: 60
actor: {{objective: cppo, path: /models/{seed}/base, optimizer: {{lr: {lr}}},
  cpl: {{views: {{positive: [{{name: rotation, degrees: {seed}.0}}]}}}}}}
heldout: {{size: 300, every: 10}}
"""
TITLES = {
    "reward": {"title": "Reward", "unit": "", "help": "Mean."},
    "cpl_selected_share": {"title": "Selected", "unit": "share", "help": ""},
}


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Made-up titles, so that torch need not be imported; pictures only if `drawn`."""
    monkeypatch.setattr(compare, "meanings", lambda file: TITLES)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(compare, "comparison_plots", lambda *runs: [])


@pytest.fixture
def drawn():
    """Asks for pictures."""


@pytest.fixture
def make(tmp_path):
    def run(name: str, steps: int = 12, seed: int = 1, cpl: bool = True) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        at = {"reward": 0.5, **({"cpl_selected_share": 0.3} if cpl else {})}
        records = [
            {"step": n, "seconds": 7 * n, "samples": 8 * n, **at}
            for n in range(1, steps + 1)
        ]
        folder.lines("metrics.jsonl", records)
        return folder.config(CONFIG.format(seed=seed, lr=1e-5 * seed))

    return run


def text_of(path: Path) -> str:
    return " ".join(Page(path.read_text(encoding="utf-8")).text.split())


def compared(tmp_path, *runs: RunFolder) -> str:
    out = tmp_path / "compare.html"
    return text_of(write_comparison([run.folder for run in runs], out))


def test_runs_of_different_lengths_one_without_evaluations(make, tmp_path, drawn):
    one = make("one").evaluations([0, 6, 12])
    two = make("two", 8, 2).evaluations([0, 6])
    three = make("three", 3, 3, cpl=False)
    with (one.folder / "metrics.jsonl").open("a") as lines:
        record = {"step": 12, "reward": 0.75, "warnings": ["the <b>tide</b> rose"]}
        lines.write(json.dumps(record) + "\n")
    (one.folder / "report.html").write_text("")
    seen = compared(tmp_path, one, two, three)
    for said in (
        "Comparison of 3 runs",
        "not equally long",
        "8 of 60 training steps",
        "A one Step 12: the <b>tide</b> rose",
        "C three: No accuracy on other problems",
        "Reward 0.55 0.5 0.5",
    ):
        assert said in seen
    assert "samples.json" not in seen
    assert re.search(r"B two step 6 [+-]\d+\.\d \(.* to .*\) problem by problem", seen)
    assert re.search(r"B two steps 12 and 6 [+-]", seen)
    page = Page((tmp_path / "compare.html").read_text())
    assert [a["href"] for a in page.all("a")] == ["one/report.html"]
    heldout, reward, selected = [attrs["alt"] for attrs in page.all("img")]
    assert "C three" not in heldout and "B two: step 0: " in heldout
    assert "A one from 0.5 at step 1 to 0.75 at step 12; B two" in reward
    assert "C three" in reward and "C three" not in selected


def test_the_last_validation_counts_and_own_parts_have_a_name(make, tmp_path):
    one = make("one")
    one.lines(
        "metrics.jsonl",
        [
            {"step": n, "validation_accuracy": n / 16, "reward/looks": n / 16}
            for n in (4, 8)
        ],
    )
    seen = compared(tmp_path, one, make("two"))
    assert "validation_accuracy 0.5" in seen  # and 6 / 16 of
    assert "Reward: looks 0.375" in seen


def test_settings_that_differ(make, tmp_path):
    seen = compared(tmp_path, make("one"), make("two", 12, 2))
    for shown in (
        "actor.path 1/base 2/base",
        "actor.optimizer.lr 1e-05 2e-05",
        "actor.cpl.views.positive.0.degrees 1.0 2.0",
    ):
        assert shown in seen
    for hidden in ("someone", "secret", "name-1", "/models", "actor.objective"):
        assert hidden not in seen


@pytest.mark.parametrize("missing", ["config", "problems", "outcomes", "counts"])
def test_pairs_only_what_are_the_same_problems(make, tmp_path, missing):
    one, two = make("one").evaluations([5]), make("two").evaluations([5])
    if missing == "config":
        (two.folder / "config.yaml").unlink()
    elif missing == "problems":
        two.config(CONFIG.format(seed=1, lr=1).replace("size: 300", "size: 301"))
    elif missing == "outcomes":
        two.evaluations([5], outcomes=False)
    else:
        two.lines("evaluations.jsonl", [{"step": 5, "accuracy": 0.5}])
    seen = compared(tmp_path, one, two)
    assert "problem by problem" not in seen
    assert ("no interval" if missing == "counts" else "unpaired") in seen


def test_a_refused_answer_is_in_no_pair(make, tmp_path):
    runs = [make(name) for name in ("one", "two")]
    for run, correct in zip(runs, ("1100-", "-1010"), strict=True):
        share = correct.count("1") / 4
        record = {"step": 3, "accuracy": share, "n": 4, "correct": correct}
        run.lines("evaluations.jsonl", [record])
    # Of three problems that both have answered the second run has one more.
    assert re.search(r"\+33\.3 \(.*problem by problem, on 3", compared(tmp_path, *runs))


def test_same_names_are_told_apart(make, tmp_path):
    seen = compared(tmp_path, make("x/cppo"), make("y/cppo"), make("z"))
    assert "A x/cppo" in seen and "B y/cppo" in seen and "C z" in seen


def test_hostile_names_stay_text(make, tmp_path):
    name = "a:b <img src=x onerror=y> '\"& c"
    (make(name).folder / "report.html").write_text("")
    seen = compared(tmp_path, make(name), make("two", 1))
    assert name in seen
    page = Page((tmp_path / "compare.html").read_text())
    assert not any("onerror" in attrs for _, attrs in page.tags)
    (link,) = page.all("a")
    assert link["href"].startswith("a%3Ab%20%3Cimg")


def test_nothing_comes_from_outside(make, tmp_path, drawn):
    compared(tmp_path, make("one").evaluations([0, 5]), make("two").evaluations([0, 5]))
    html = (tmp_path / "compare.html").read_text()
    html = re.sub(r"(data:image/[a-z+]+;base64,)[A-Za-z0-9+/=]+", r"\1", html)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", html)


def test_same_runs_same_page(make, tmp_path, drawn):
    """And an older comparison is written over, also by way of the command."""
    runs = [make("one"), make("two", seed=2)]
    compared(tmp_path, *runs)
    first = (tmp_path / "compare.html").read_bytes()
    words = [str(run.folder) for run in runs]
    assert main(["report", *words, "-o", str(tmp_path / "compare.html")]) == 0
    assert (tmp_path / "compare.html").read_bytes() == first


@pytest.mark.parametrize(
    ("runs", "out", "found"),
    [
        (["one", "none"], "new.html", "expected a run's folder, found none"),
        (["one", "one/../one"], "new.html", "different runs, found .* more than once"),
        (["one"] * (MOST_RUNS + 1), "new.html", f"at most {MOST_RUNS} runs, found 13"),
        (["one", "two"], "mine.html", "an older comparison, found something else"),
        (["one", "two"], "one", "expected a file's name, found a folder"),
        (["one", "two"], "no/new.html", "found no folder for it"),
        (["one"], "new.html", "-o: expected two runs or more, found one"),
    ],
)
def test_mistakes(make, tmp_path, monkeypatch, capsys, runs, out, found):
    make("one"), make("two")
    monkeypatch.chdir(tmp_path)
    Path("mine.html").write_text("<p>my own</p>")
    assert main(["report", *runs, "-o", out]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and re.search(found, message)
    assert Path("mine.html").read_text() == "<p>my own</p>"
    assert not Path("new.html").exists()


TREE = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3),
    lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1)
        | st.lists(
            st.dictionaries(st.sampled_from("de"), inner, min_size=1), min_size=1
        )
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(TREE)
def test_flat_settings_lead_back_to_their_values(tree):
    for name, value in flatten({"top": tree}).items():
        found = {"top": tree}
        for part in name.split("."):
            found = found[int(part) if isinstance(found, list) else part]
        assert found == value


@given(st.lists(st.text("ab/", min_size=1, max_size=9), min_size=1, max_size=5))
def test_names_are_ends_and_as_distinct_as_their_paths(tails):
    paths = [str(Path("/", tail.strip("/") or "a")) for tail in tails]
    names = distinct_names(paths)
    assert len(set(names)) == len(set(paths))
    assert all(path.endswith(name) for path, name in zip(paths, names, strict=True))


def test_settings_of_a_run_that_are_not_recorded_differ_from_none():
    assert differing([{"seed": 1}, {}, {"seed": 1}]) == []
    assert differing([{"seed": 1}, {}, {"seed": 2}]) == [("seed", ["1", "-", "2"])]
    assert differing([{"x": None}, {"y": [1]}]) == [
        ("x", ["null", "-"]),
        ("y", ["-", "[1]"]),
    ]


def test_titles_are_of_metrics_that_there_are():
    """Names that the pictures are chosen by are declared somewhere."""
    from areal_cppo.report.compare_plots import SHOWN

    assert set(SHOWN[:-1]) <= set(metrics.declared())
