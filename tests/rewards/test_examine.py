"""The judge of answers under a generated examination, and the examination itself."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rewards import examine
from tests.rewards.variants import KINDS, Pair
from tests.rewards.variants.numbers import digits_and_period
from tests.rewards.variants.writing import decimal

EXAMPLES = 2000
LEAST_RECALL = 0.97


@pytest.fixture(scope="module")
def drawn() -> list[Pair]:
    return examine.generated(EXAMPLES)


def test_every_pair_of_the_list():
    assert not examine.first_misjudged(examine.misjudged(examine.cases()))


def test_no_near_miss_is_paid(drawn):
    near = [pair for pair in drawn if not pair.right]
    assert len(near) >= EXAMPLES
    assert not examine.first_misjudged(examine.misjudged(near))


def test_right_variants_are_paid(drawn):
    right = [pair for pair in drawn if pair.right]
    found = examine.examination(right, {"ours": examine.ours})["ours"]
    assert found["kinds"]["all"]["right"] >= EXAMPLES
    low = {
        k: r["recall"] for k, r in found["kinds"].items() if r["recall"] < LEAST_RECALL
    }
    text = examine.first_misjudged(found["misjudged"])
    assert found["kinds"]["all"]["recall"] >= LEAST_RECALL, f"{low}\n{text}"


def test_pairs_are_distinct_spread_evenly_and_the_same_for_a_seed():
    some = examine.generated(len(KINDS))
    assert len(set(some)) == len(some) == 2 * len(KINDS)
    assert {(pair.kind, pair.right) for pair in some} == {
        (name, right) for name in KINDS for right in (True, False)
    }
    assert examine.generated(len(KINDS)) == some
    assert examine.generated(len(KINDS), 1) != some


def test_what_is_wrongly_paid_fails_the_examination(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(examine, "is_correct", lambda *_, **__: True)
    path = tmp_path / "examination.json"
    assert examine.main(["--examples", "30", "--json", str(path)]) == 1
    total = json.loads(path.read_text())["areal_cppo"]["kinds"]["all"]
    assert total["near_paid"] == total["near"] > 30
    assert total["recall"] == 1
    assert total["precision"] == total["right"] / (total["right"] + total["near"])
    assert "wrong, paid" in capsys.readouterr().out


@given(st.fractions(-100, 100, max_denominator=200))
def test_digits_are_all_digits(value):
    head, period = digits_and_period(value)
    places = len(head.partition(".")[2])
    sign = -1 if value < 0 else 1
    rest = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    assert Fraction(head) + sign * rest == value
    assert (decimal(value) is None) == (int(period) != 0)
    assert decimal(value) is None or Fraction(decimal(value)) == value
