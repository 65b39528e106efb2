"""All tasks: problems, roles, scores, reward. Needs no torch, no transformers.

Pictures are looked at in test_drawings.py and test_pictures.py.
"""

import random
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.config import TASK_NAMES
from areal_cppo.errors import UserError
from areal_cppo.rewards.parts import Reward
from areal_cppo.tasks.problems import SPLITS, reading_task
from areal_cppo.tasks.responses import (
    QUESTION,
    ROLES,
    VOCABULARY,
    Score,
    reference_response,
    reward_fn,
    score_response,
    split_tokens,
    token_roles,
)

WEIGHTS = {"answer": 0.9, "format": 0.1}
SIDES, BARS = ("AB", "BC", "CA"), ("A", "B", "C")
GOOD = "<think>BC=7 AB=7 CA=1;7+7=14;14+1=15</think>\\boxed{15}"
GOOD_SIDES = (7, 7, 1)

any_names = st.sampled_from([SIDES, BARS, ("C", "A", "B")])
any_values = st.tuples(*[st.integers(1, 9)] * 3)
any_tokens = st.lists(st.sampled_from(VOCABULARY), max_size=40)


@pytest.fixture(params=TASK_NAMES)
def task(request):
    return reading_task(request.param)


def roles(text):
    return "".join(token_roles(split_tokens(text)))


def test_vocabulary_has_29_different_tokens():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 29


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="charts, prior, legends, found 'squares'"):
        reading_task("squares")


def test_problem_is_the_same_each_time(task):
    first, second = task.make_problem(3, 5), task.make_problem(3, 5)
    assert (first.names, first.values) == (second.names, second.values)
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.colours, first.question) == (second.colours, second.question)
    if first.question == QUESTION:
        assert first.answer == sum(first.values)
    assert first.names == task.names


def test_streams_share_no_picture(task):
    pictures = {
        task.make_problem(seed, i, split).image.tobytes()
        for split in SPLITS
        for seed in range(3)
        for i in range(20)
    }
    assert len(pictures) == len(SPLITS) * 3 * 20


def test_tasks_share_no_numbers():
    """Of problems with the same seed and index."""
    triangles, charts = (
        [reading_task(name).make_problem(0, i).values for i in range(20)]
        for name in ("triangles", "charts")
    )
    assert triangles != charts


def test_values_are_spread_evenly(task):
    digits = [value for i in range(300) for value in task.make_problem(1, i).values]
    assert all(60 < digits.count(digit) < 140 for digit in range(1, 10))


def test_unknown_split_is_refused(task):
    with pytest.raises(ValueError, match="held_out"):
        task.make_problem(0, 0, "test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "<eos>", "TNNTRTNNTRTNNTRTCTCTAATCCTCTAATTFFTT"),
        ("<think>AB=12;", "TNNTRTT"),  # only the digit straight after = is read
        ("<think>7=7 A7 =7", "TTTTTNTTTT"),  # no side named
        ("A=1;A=1+1=2", "NTRTTTATCTA"),
        ("<think>B=7 A=7 C=1;7+7=14", "TNTRTNTRTNTRTCTCTAA"),
        ("1+2=3", "TTTTT"),  # before any ; nothing is added yet
        (";12+3=45;6", "TCCTCTAATC"),
        ("<think>\\boxed{12}<eos>", "TTFFTT"),
        ("\\boxed{1}AB=2", "TFTTTTA"),  # after the answer it can only go on adding
        ("", ""),
    ],
)
def test_roles_of_responses_worked_by_hand(text, expected):
    assert roles(text) == expected


@given(any_names, any_values, st.integers(0, 999))
def test_roles_of_a_reference_response_are_what_its_maker_says(names, values, seed):
    text, made = reference_response(names, values, random.Random(seed))
    assert token_roles(split_tokens(text)) == made
    assert made.count("R") == 3 and made.count("N") == len("".join(names))
    read = [
        token
        for token, role in zip(split_tokens(text), made, strict=True)
        if role == "R"
    ]
    assert sorted(read) == sorted(map(str, values))


@given(any_names, any_values, st.integers(0, 999))
def test_a_reference_response_scores_in_full(names, values, seed):
    text, _ = reference_response(names, values, random.Random(seed))
    score = score_response(text, names, values)
    assert score == Score(True, True, 1.0, True)
    assert score.reward == 1.0


def test_a_problem_asks_for_what_it_shows(task):
    problem = task.make_problem(0, 0)
    text, made = problem.reference_response(random.Random(0))
    reads = 6 if problem.colours else 3
    assert problem.score(text).reward == 1.0 and made.count("R") == reads
    colours = [f"{colour} " for colour in problem.colours or ()] or [""] * 3
    shown = zip(problem.names, colours, problem.values, strict=True)
    read = re.split(" (?=[ABC])", text.removeprefix("<think>").split(";")[0])
    assert set(read) == {f"{name}={colour}{value}" for name, colour, value in shown}


def test_reference_responses_come_in_all_orders():
    texts = {
        reference_response(SIDES, (1, 2, 3), random.Random(i))[0] for i in range(60)
    }
    assert len(texts) == 6


@settings(max_examples=300, deadline=None)
@given(any_tokens, any_names, any_values)
def test_any_token_list_gets_roles_and_a_score(tokens, names, values):
    found = token_roles(tokens)
    assert len(found) == len(tokens)
    assert set(found) <= set(ROLES)
    text = "".join(tokens)
    score = score_response(text, names, values)
    assert 0 <= score.values_read <= 1
    parts = reward_fn("", text, [], [], answer=sum(values), images=[])
    assert Reward.of(parts, WEIGHTS).value == score.reward


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), any_names, any_values)
def test_any_text_gets_roles_and_a_score(text, names, values):
    token_roles(list(text))
    assert 0 <= score_response(text, names, values).reward <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, Score(True, True, 1.0, True)),
        (GOOD + "<eos>", Score(True, True, 1.0, True)),
        (GOOD + "<eos><pad>7", Score(True, True, 1.0, True)),
        (GOOD + "7", Score(True, False, 1.0, True)),
        (GOOD.replace("{15}", "{16}"), Score(False, True, 1.0, False)),
        # Misread, but adds up what it read: perception is to blame.
        (
            "<think>BC=7 AB=6 CA=1;7+6=13;13+1=14</think>\\boxed{14}",
            Score(False, True, 2 / 3, True),
        ),
        # Two misreadings that make up for each other.
        ("<think>AB=6 BC=8 CA=1;</think>\\boxed{15}", Score(True, True, 1 / 3, True)),
        # One side twice: the first reading counts, and the chain is broken.
        (
            "<think>AB=7 AB=8 BC=7;</think>\\boxed{15}",
            Score(True, True, 2 / 3, False),
        ),
        ("\\boxed{15}", Score(True, False, 0.0, False)),
        ("\\boxed{9}\\boxed{15}", Score(True, False, 0.0, False)),
        ("\\boxed{15}\\boxed{9}", Score(False, False, 0.0, False)),
        ("<think></think>\\boxed{9}", Score(False, True, 0.0, False)),
        ("<think><think></think>\\boxed{15}", Score(True, False, 0.0, False)),
        ("<think>AB=77 BC=7", Score(False, False, 1 / 3, False)),
        ("\\boxed{" + "9" * 5000 + "}", Score(False, False, 0.0, False)),
        ("", Score(False, False, 0.0, False)),
        # Other names than those of the picture are no readings.
        ("<think>AAB=7 BC=7 C=1;", Score(False, False, 1 / 3, False)),
    ],
)
def test_scores_worked_by_hand(text, expected):
    assert score_response(text, SIDES, GOOD_SIDES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>C=1 B=7 A=7;</think>\\boxed{15}", Score(True, True, 1.0, True)),
        # Two bars mixed up: the sum does not tell.
        ("<think>C=7 B=1 A=7;</think>\\boxed{15}", Score(True, True, 1 / 3, True)),
        ("<think>C=7 B=7 A=7;</think>\\boxed{21}", Score(False, True, 2 / 3, True)),
        # Sides are not bars.
        ("<think>AB=7 BC=7 CA=1;</think>\\boxed{15}", Score(True, True, 0.0, False)),
    ],
)
def test_scores_of_bars_worked_by_hand(text, expected):
    assert score_response(text, BARS, (7, 7, 1)) == expected


@pytest.mark.parametrize("answer", [15, "15"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 1.0),
        (GOOD + "<eos>", 1.0),
        (GOOD.replace("{15}", "{5}"), 0.1),
        ("\\boxed{15}", 0.9),
        ("15", 0.0),
    ],
)
def test_reward_function(text, expected, answer):
    parts = reward_fn("P?", text, [1], [2], answer=answer, values=[7, 7, 1])
    assert Reward.of(parts, WEIGHTS).value == expected


def test_problems_and_rewards_need_no_torch():
    code = (
        "import sys, areal_cppo.tasks.problems;"
        "print(sorted({'torch', 'transformers', 'areal'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_prior_is_in_the_warm_up_alone():
    """And changes nothing else: the values of others are those of `triangles`' kind."""
    prior = reading_task("prior")
    equal = {
        split: sum(
            len(set(prior.make_problem(0, i, split).values)) == 1 for i in range(200)
        )
        for split in SPLITS
    }
    assert 110 < equal["warm_up"] < 170  # 70 %
    assert max(equal["train"], equal["held_out"]) < 10  # 1 in 81
