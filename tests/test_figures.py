"""Where the figures of README and docs come from: `docs/figures.yaml`."""

from __future__ import annotations

import importlib.util
import json
import shlex

import pytest

from areal_cppo.cli.main import parse
from tests.test_docs import ROOT, commands, words_of


def script(name: str):
    """A module of docs."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures, evidence = script("figures"), script("evidence")

FIGURES = figures.read()
RUNS = [(name, line) for name, figure in FIGURES.items() for line in figure["run"]]
PAGES = [ROOT / "docs" / f"{page}.md" for page in ("demo", "evidence", "performance")]
PAGES += [ROOT / "docs" / "throughput.md"]
WRITES = ("--out", "--json", "--plot", "--plots")
# What these pages show besides, by a word of the command.
OTHERWISE = {
    "plan": "a simulation, of an example's rates",
    "--server": "needs the server of an older commit beside",
    "--gpu": "needs a GPU",
    "--run": "of any run",
    "--config FILE": "of any configuration",
    "--model DIR": "of any model",
    "predict": "of any runs",
    "--alternate 3": "an example",
    "--seed 2": "an example",
}


def measured(words: list[str]) -> frozenset[str]:
    """Words of a command without what it writes to."""
    outputs = [i + 1 for i, word in enumerate(words) if word in WRITES]
    return frozenset(
        word for i, word in enumerate(words) if i not in outputs and word not in WRITES
    )


@pytest.mark.parametrize(("name", "line"), RUNS, ids=[f"{n}: {x}" for n, x in RUNS])
def test_a_command_is_one(name, line):
    first, *rest = shlex.split(line)
    if first == "python" and rest[0] != "-m":
        assert (ROOT / rest[0]).exists()
        return
    if first == "python":
        module = ROOT / rest[1].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
        return
    assert first == "areal-cppo"
    parse(rest)
    for word in rest:
        if word.startswith(("examples/", "configs/")):
            assert (ROOT / word).exists()


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_of_pages_that_there_are(name):
    assert all((ROOT / page).exists() for page in FIGURES[name]["docs"])
    assert FIGURES[name]["minutes"] > 0


def test_a_command_beside_figures_is_among_them():
    known = {measured(shlex.split(line)) for _, line in RUNS}
    for page in PAGES:
        for line in commands(page):
            if line.startswith("make ") or any(word in line for word in OTHERWISE):
                continue
            assert measured(words_of(line)) in known, f"{page.name}: {line}"


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    count = "import pathlib; p = pathlib.Path('OUT/n'); p.open('a').write('x')"
    listed = {
        "good": {"docs": ["README.md"], "minutes": 1, "run": [f'python -c "{count}"']},
        "bad": {"docs": ["README.md"], "minutes": 1, "run": ["python -c 1/0"]},
    }
    monkeypatch.setattr(figures, "read", lambda: listed)
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    assert figures.main([]) == 1 and figures.main([]) == 1
    said = capsys.readouterr()
    assert "good: done" in said.out and "bad: failed" in said.err
    assert (tmp_path / "good" / "n").read_text() == "x"
    assert "ZeroDivisionError" in (tmp_path / "bad" / "output.txt").read_text()
    (about,) = json.loads((tmp_path / "good" / "done.json").read_text()).values()
    assert about["seconds"] >= 0 and about["commit"] and about["torch"]
    assert figures.main(["good", "--list"]) == 0
    with pytest.raises(SystemExit):
        figures.main(["unknown"])
    assert "expected some of good, bad, found unknown" in capsys.readouterr().err


def test_tables_of_the_evidence_are_the_summarys(capsys, tmp_path):
    """Differences in points, bold where the interval excludes zero; every row."""

    def arm(name, mean, half):
        interval = {"mean": mean, "low": mean - half, "high": mean + half}
        of_all = {"accuracy": interval, "accuracy_sampled": interval}
        references = ("grpo", "aug", "noisyrollout", "cppo")
        return {
            "arm": name,
            "means": of_all | {"cpu_seconds": {"mean": 10 + 100 * mean}},
            "differences": dict.fromkeys(references, of_all),
        }

    arms = [
        arm(name, mean=i / 100, half=0.025) for i, name in enumerate(evidence.NAMES)
    ]
    shifts = dict.fromkeys([*evidence.KINDS, "noise"], arms)
    summary = {"tasks": dict.fromkeys(["charts", evidence.ALL], shifts)}
    evidence.show(summary)
    evidence.draw(summary, tmp_path / "evidence.png")
    assert (tmp_path / "evidence.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "| GRPO | 0.0 | 0.0 | 0.0 | 0.0 | 1 |" in printed
    two, three = "+2.0 (-0.5 to +4.5)", "**+3.0 (+0.5 to +5.5)**"
    assert f"| NoisyRollout | {two} | {two} | {two} | {two} | 1.20 |" in printed
    assert f"| PAPO | {three} | {three} | {three} | {three} | 1.30 |" in printed
    assert "| NoisyRollout | +2.0 |" in printed  # shift by shift
    assert printed.count("\n| ") - 2 * 5 == 11 + 11 + 12 + 6 + 2
