"""Aligned text tables. Covers layout only; their users test what they say."""

from areal_cppo.report.table import table


def test_words_align_left_and_numbers_right():
    text = table(("arm", "tokens/s"), [("grpo", "1,234"), ("a", 7)], words=1)
    assert text == "arm   tokens/s\ngrpo     1,234\na            7"


def test_no_headings_a_title_and_an_unknown_value():
    text = table(None, [("accuracy", None), ("n", 64)], title="Results", words=2)
    assert text == "Results\naccuracy  -\nn         64"


def test_whatever_the_terminal_it_is_plain_and_unwrapped(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    cell = "[bold]" + "x" * 200 + ":smile:"
    assert table(["name"], [[cell]], words=1) == f"name\n{cell}"


def test_headings_alone():
    assert table(("a", "bc"), []) == "a  bc"
