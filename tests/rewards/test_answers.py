"""Right and wrong answers: pairs that a judge of answers gets wrong easily.

Not covered: how long a hopeless answer may take (test_pool.py).
"""

from __future__ import annotations

import time

import pytest

from areal_cppo.rewards.answers import final_answer, is_correct
from areal_cppo.rewards.units import split_unit

# (true answer, content of the response's box)
RIGHT = {
    "number": [
        ("5", "5"),
        ("5", "5.0"),
        ("5", "5."),
        ("5", "$5$"),
        ("7", "$$7$$"),
        ("-5", "−5"),
        ("0.25", ".25"),
        ("1000", "1,000"),
        ("1,000", "1000"),
        ("1000", "1{,}000"),
        ("1000", "1 000"),
        ("1200", r"1.2\times 10^3"),
        ("$12.50", "12.5"),
        ("12.5", r"\$12.50"),
        (r"\boxed{5}", "5"),
    ],
    "fraction": [
        (r"\frac{1}{2}", "0.5"),
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac{1}{2}", "1/2"),
        ("0.5", r"\tfrac{1}{2}"),
        ("1/2", r"\frac{2}{4}"),
        ("1 1/2", "3/2"),
        ("1.5", r"1\frac{1}{2}"),
        ("-1 1/2", "-1.5"),
        ("3:4", "3:4"),
    ],
    "unit": [
        ("5", "5 cm"),
        ("5", r"5\,\text{cm}"),
        ("5 cm", "5"),
        ("5 cm", r"5\text{ cm}"),
        ("5 m", "5m"),
        ("10", r"10 \text{ inches}"),
        ("25 cm^2", r"25\,\text{cm}^2"),
        ("25 cm^2", "25 square centimeters"),
        ("25", "25 cm²"),
        (r"4\pi", r"4\pi\ \text{cm}^2"),
        ("60 km/h", r"60\ \text{km/h}"),
        ("20 m/s", "20 meters per second"),
        ("9.8 m/s^2", r"9.8\,\mathrm{m/s^2}"),
        ("5", "5 units"),
        ("25", "25 square units"),
    ],
    "degrees": [
        ("30", r"30^\circ"),
        ("30", "30°"),
        ("30°", "30"),
        (r"30^{\circ}", "30 degrees"),
        ("135", r"m\angle A = 135^\circ"),
    ],
    "per cent": [
        ("50%", "50"),
        ("50%", "0.5"),
        ("50%", r"\frac{1}{2}"),
        ("0.5", r"50\%"),
        ("50", "50 percent"),
    ],
    "roots and pi": [
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"2\sqrt{3}", "2√3"),
        (r"2\sqrt{3}", "2sqrt(3)"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"12\pi", "12π"),
        (r"\frac{\pi}{3}", r"\pi/3"),
        (r"\pi", "pi"),
    ],
    "several values": [
        ("(1,2)", r"\left(1, 2\right)"),
        ("[1,2)", "[1, 2)"),
        (r"(-\infty, 2]", r"(-\infty,2]"),
        ("[1,2]", r"x\in[1,2]"),
        ("5, 7", "7 and 5"),
        ("(5, 6)", "(5 cm, 6 cm)"),
        ("50%, 25%", "50, 25"),
        ("1, 2 and 3", "1,2,3"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("x>2", "2 < x"),
    ],
    "expression": [
        ("x^2+1", "1+x^2"),
        ("(x+1)^2", "x^2+2x+1"),
        ("y=2x+1", "y = 1 + 2x"),
        ("x=5", "5"),
        ("5", "x = 5"),
        ("5", "AB = 10/2 = 5"),
        ("2", r"x\approx 2"),
    ],
    "choice": [
        ("B", "(B)"),
        ("B", "b"),
        ("B", "B)"),
        ("B", "B. 12 cm"),
        ("B", "(B) 12 cm"),
        ("B", "B: a triangle"),
        ("B", "B. A triangle"),
        ("B", r"\textbf{(B)}"),
        ("(B)", "B"),
        ("A, C", "A,C"),
    ],
    "word": [
        ("Yes", "yes"),
        ("Yes", r"\text{Yes}"),
        ("Yes", "Yes."),
        ("triangle ABC", "Triangle ABC"),
    ],
}

WRONG = {
    "another number": [
        ("5", "15"),
        ("5", "-5"),
        ("5", "5!"),
        ("5", "5_6"),
        ("23", "2{3}"),
        ("12", "1 2"),
        ("3.5", "1 2.5"),
        ("12", "12.0000001"),
        ("1000", "1,00"),
        ("34", "3,4"),
        ("5", "e"),
        ("5", r"5\\6"),
    ],
    "the number among others": [
        ("5", "5 or 7"),
        ("5", "5, 7"),
        ("5, 7", "5"),
        ("5", "5 6"),
        ("5", "$5$ 6"),
        ("5", "not 5"),
        ("5", "The answer is 5"),
        ("5", r"5\text{ or }7"),
        ("5", r"5\text{ but maybe 7}"),
        ("5", "5 hundred"),
    ],
    "rounded": [
        (r"\pi", "3.14"),
        ("1/3", "0.33"),
        (r"2\sqrt{3}", "3.46"),
        (r"12\pi", "37.7"),
    ],
    "fraction": [("3/4", "3"), ("3:4", "4:3")],
    "unit": [
        ("5 cm", "5 m"),
        ("5 cm", "50 mm"),
        ("25 cm^2", "25 cm"),
        ("60 km/h", "60 m/s"),
        ("30°", "30 rad"),
        ("5", "5c"),
        ("5d", "5m"),
        ("5", "5 apples"),
        ("5", "5 feet inches"),
    ],
    "per cent": [("0.5", "50"), ("50", "0.5"), ("5", "50%")],
    "several values": [
        ("(1,2)", "(2,1)"),
        ("(1,2)", "2,1"),
        ("(2,1)", "1,2"),
        ("[1,2]", "(1,2)"),
        ("(1,2)", "[1,2]"),
        (r"(-\infty,2)", r"(-\infty,2]"),
        ("x<=2", "x>=2"),
    ],
    "expression": [
        ("5", "5x"),
        ("5", "2x=5"),
        ("3x=10", "2x=10"),
        ("x=5", "y=5"),
        ("5", "x>5"),
    ],
    "choice": [
        ("B", "C"),
        ("B", "12 cm"),
        ("B", "AB"),
        ("B", "A and B"),
        ("B", "B, C"),
        ("B", "B) or C)"),
        ("A", "A. B"),
        ("B", "not B"),
        ("B", "Be"),
        ("E", "2.718281828"),
    ],
    "word": [
        ("Yes", "No"),
        ("Yes", "Yes, because"),
        ("Yes", "Yesterday"),
        ("no", "on"),
        ("abc", "bca"),
    ],
    "nothing": [("5", ""), ("5", None), ("None", None), ("", "5"), ("", "")],
}

HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "tower of stars": "9**9**9**9",
    "tower inside an exponent": "9^{9*9^9}",
    "tower from the left": "((9^9)^9)^9",
    "tower of a decimal": "9.9^{99.9^{9}}",
    "exponent": "2^{99999999}",
    "scientific exponent": "1e999999999",
    "factorial": "99999999!",
    "factorials": "9!!!",
    "sum": r"\sum_{i=1}^{10000000} i",
    "integral": r"\int_0^1 x^x dx",
    "expansion": "((x+1)(x+2)(x+3)(x+4))^{20}",
    "division by zero": r"\frac{1}{0}",
    "deep braces": "{" * 5000 + "5" + "}" * 5000,
    "deep parentheses": "(" * 200 + "5" + ")" * 200,
    "as deep as is looked at": "(" * 12 + "1" + ")" * 12,
    "nested fractions": r"\frac{" * 100,
    "unbalanced": "}" * 50,
    "digits": "9" * 100_000,
    "characters": "x" * 100_000,
    "sum of ones": "1+" * 50_000 + "1",
    "code": "__import__('os').system('true')",
}


def cases(table):
    return [
        pytest.param(truth, answer, id=f"{kind}: {answer} for {truth}")
        for kind, pairs in table.items()
        for truth, answer in pairs
    ]


@pytest.mark.parametrize("truth, answer", cases(RIGHT))
def test_right(truth, answer):
    assert is_correct(answer, truth)


@pytest.mark.parametrize("truth, answer", cases(WRONG))
def test_wrong(truth, answer):
    assert not is_correct(answer, truth)


CHOICES = "Which are right? A. 5 cm B. 6 cm C. 7 cm"


@pytest.mark.parametrize(
    "question", [CHOICES, "(A) 5 (B) 6 (C) 7", "A：五 B：六 C：七"]
)
def test_letters_are_a_set_only_where_the_question_offers_choices(question):
    assert is_correct("C, A", "A, C", question=question)
    assert is_correct("CA", "A, C", question=question)
    assert not is_correct("C, A, B", "A, C", question=question)
    for other in (None, "Rank the runners.", "In triangle ABC, A is right."):
        assert not is_correct("C, A", "A, C", question=other)
        assert is_correct("AC", "A, C", question=other)


def test_the_tables_are_long_enough():
    assert len(cases(RIGHT)) >= 60 and len(cases(WRONG)) >= 60


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_are_wrong_and_done_with_in_time(answer):
    start = time.monotonic()
    assert not is_correct(answer, "5")
    assert time.monotonic() - start < 2  # a few milliseconds on an idle core


@pytest.mark.parametrize("text", ["9^{9^{9^9}}", "x" * 100_000, "9!!!"])
def test_the_truth_itself_is_right_however_odd(text):
    assert is_correct(text, text)


@pytest.mark.parametrize(
    "response, found",
    [
        (r"<think>a</think>\boxed{5}", "5"),
        (r"<think>a</think>The answer is \boxed {7}.", "7"),
        (r"\boxed{4} no, \boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{[0,1\}}", r"[0,1\}"),  # an escaped brace closes nothing
        (r"<think>\boxed{4}</think>\boxed{5}", "5"),
        (r"<think>\boxed{4}</think> I am not sure", None),
        (r"<think>it is \boxed{4}", "4"),  # never stopped thinking
        (r"\boxed{4} or \boxed{5", None),  # the last one is the answer
        (r"\boxed{}", None),
        ("5", None),
        (r"\boxed{" * 20_000, None),
    ],
)
def test_the_last_box_after_thinking_is_the_answer(response, found):
    assert final_answer(response) == found


@pytest.mark.parametrize(
    "answer, value, unit",
    [
        ("5 cm", "5", (("cm", 1),)),
        ("5cm ^2", "5", (("cm", 2),)),
        ("5 cubic feet", "5", (("ft", 3),)),
        ("60 km/h", "60", (("h", -1), ("km", 1))),
        ("20 meters per second", "20", (("m", 1), ("s", -1))),
        (r"30^\circ", "30", (("degree", 1),)),
        ("5 units", "5", None),
        ("5m", "5m", None),  # m is a variable here
        ("5 m", "5", (("m", 1),)),
        ("x", "x", None),
        ("cm", "cm", None),
    ],
)
def test_units_are_cut_off_and_told(answer, value, unit):
    assert split_unit(answer) == (value, unit)
