"""Why a response is worth what it is: `areal-cppo reward` and what it says."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.cli.main import main
from areal_cppo.rewards.answers import is_correct
from areal_cppo.rewards.explain import explain
from areal_cppo.rewards.format import format_fault, has_format

ANSWERS = r"0123456789.,=<>()[]{}\\+-*/^%$ abxyABπ°√"
PIECES = ("<think>", "</think>", r"\boxed{5}", r"\boxed{", "x", " ", "<|im_end|>")


def test_the_command_says_what_a_response_is_worth_and_why(capsys, tmp_path):
    response = tmp_path / "response"
    response.write_text(r"<think>x</think>\boxed{\frac{2}{4}}<|im_end|>")
    config = "configs/qwen2_5_vl-3b_geometry3k.yaml"
    command = ["reward", "--config", config, "--truth", "0.5"]
    assert main([*command, "--response", f"@{response}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        r"box: \frac{2}{4}",
        r"  answer read as a number: \frac{2}{4}",
        "  truth read as a number: 0.5",
        "  right: they are equal",
        "format: kept",
        "math-verify (only counted): right",
        "part answer: 1 x 0.9",
        "part format: 1 x 0.1",
        "part judges_differ: 0, not paid for",
        "reward: 1",
    ]


def test_an_explanation_says_what_the_judge_says():
    table = Path("tests/rewards/answers.tsv").read_text(encoding="utf-8")
    for line in table.splitlines()[1:]:
        truth, answer, verdict, _ = line.split("\t")
        *_, last = explain(answer, truth)
        assert last.startswith(f"{verdict}: "), line


@given(st.text(ANSWERS, max_size=12), st.text(ANSWERS, max_size=12))
def test_any_answer_is_explained(answer, truth):
    *_, last = explain(answer, truth)
    assert last.startswith("right: ") == is_correct(answer, truth)


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.booleans())
def test_a_format_that_is_not_kept_has_a_fault(response, opened):
    prompt = "<think>\n" if opened else ""
    assert (format_fault(response, prompt) is None) == has_format(response, prompt)
