"""The task: problems, roles, scores, reward. Needs no torch, no transformers."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal_cppo.triangles.reward import reward_fn
from areal_cppo.triangles.task import (
    ROLES,
    SPLITS,
    VOCABULARY,
    Score,
    make_problem,
    reference_response,
    score_response,
    split_tokens,
    token_roles,
)

GOOD = "<think>BC=7 AB=7 CA=1;7+7=14;14+1=15</think>\\boxed{15}"
GOOD_SIDES = (7, 7, 1)

any_sides = st.tuples(*[st.integers(1, 9)] * 3)
any_tokens = st.lists(st.sampled_from(VOCABULARY), max_size=40)


def roles(text):
    return "".join(token_roles(split_tokens(text)))


def test_vocabulary_has_29_different_tokens():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 29


def test_problem_is_the_same_each_time():
    first, second = make_problem(3, 5), make_problem(3, 5)
    assert first.sides == second.sides
    assert first.image.tobytes() == second.image.tobytes()
    assert first.answer == sum(first.sides)


def test_streams_share_no_picture():
    pictures = {
        make_problem(seed, i, split).image.tobytes()
        for split in SPLITS
        for seed in range(3)
        for i in range(20)
    }
    assert len(pictures) == len(SPLITS) * 3 * 20


def test_sides_are_spread_evenly():
    digits = [side for i in range(300) for side in make_problem(0, i).sides]
    assert all(60 < digits.count(digit) < 140 for digit in range(1, 10))


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="held_out"):
        make_problem(0, 0, "test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "<eos>", "TNNTRTNNTRTNNTRTCTCTAATCCTCTAATTFFTT"),
        ("<think>AB=12;", "TNNTRTT"),  # only the digit straight after = is read
        ("<think>7=7 A7 =7", "TTTTTNTTTT"),  # no side named
        ("A=1;A=1+1=2", "NTRTTTATCTA"),
        ("1+2=3", "TTTTT"),  # before any ; nothing is added yet
        (";12+3=45;6", "TCCTCTAATC"),
        ("<think>\\boxed{12}<eos>", "TTFFTT"),
        ("\\boxed{1}AB=2", "TFTTTTA"),  # after the answer it can only go on adding
        ("", ""),
    ],
)
def test_roles_of_responses_worked_by_hand(text, expected):
    assert roles(text) == expected


@given(any_sides, st.integers(0, 999))
def test_roles_of_a_reference_response_are_what_its_maker_says(sides, seed):
    text, made = reference_response(sides, random.Random(seed))
    assert token_roles(split_tokens(text)) == made
    assert made.count("R") == 3 and made.count("N") == 6


@given(any_sides, st.integers(0, 999))
def test_a_reference_response_scores_in_full(sides, seed):
    text, _ = reference_response(sides, random.Random(seed))
    score = score_response(text, sides)
    assert score == Score(True, True, 1.0, True)
    assert score.reward == 1.0


def test_reference_responses_come_in_all_orders():
    texts = {reference_response((1, 2, 3), random.Random(i))[0] for i in range(60)}
    assert len(texts) == 6


@settings(max_examples=300, deadline=None)
@given(any_tokens, any_sides)
def test_any_token_list_gets_roles_and_a_score(tokens, sides):
    found = token_roles(tokens)
    assert len(found) == len(tokens)
    assert set(found) <= set(ROLES)
    text = "".join(tokens)
    score = score_response(text, sides)
    assert 0 <= score.sides_read <= 1
    assert reward_fn("", text, [], [], answer=sum(sides), images=[]) == score.reward


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), any_sides)
def test_any_text_gets_roles_and_a_score(text, sides):
    token_roles(list(text))
    assert 0 <= score_response(text, sides).reward <= 1


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
    ],
)
def test_scores_worked_by_hand(text, expected):
    assert score_response(text, GOOD_SIDES) == expected


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
    assert reward_fn("P?", text, [1], [2], answer=answer, sides=[7, 7, 1]) == expected


def test_reward_process_needs_no_torch():
    code = (
        "import sys, areal_cppo.triangles.reward;"
        "print(sorted({'torch', 'transformers', 'areal'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
