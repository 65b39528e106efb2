"""Which server is asked, and which answers are nonsense."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.rollout.servers.client import nonsense, vocabulary_of
from areal_cppo.rollout.servers.fleet import Fleet
from areal_cppo.tasks.problems import TRIANGLES
from tests.scripted_server import LOGPROB, answer

VOCABULARY = 50


@given(
    states=st.lists(st.sampled_from(["up", "down", "lost"]), min_size=1, max_size=5),
    own=st.integers(0, 4),
    tried=st.sets(st.integers(0, 4)),
    failed=st.sets(st.integers(0, 4)),
)
def test_choice_of_a_server(states, own, tried, failed):
    names = [f"host:{number}" for number in range(len(states))]
    name_of = {number: names[number] for number in range(len(states))}
    fleet = Fleet(names, name_of.get(own))
    for name, state in zip(names, states, strict=True):
        fleet.set_state(name, state)
    for number in failed & set(name_of):
        fleet.avoid(name_of[number])
    before = {name_of[number] for number in tried & set(name_of)}
    up = {name for name, state in zip(names, states, strict=True) if state == "up"}
    choices = {fleet.choose(before) for _ in range(2 * len(names))}
    if not up:
        assert choices == {None}
        return
    assert choices <= up
    if up - before:
        assert choices <= up - before
        sound = up - before - {name_of[n] for n in failed & set(name_of)}
        if sound:
            alone = {name_of.get(own)} & sound
            assert choices == (alone or sound)


@given(
    tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5),
    place=st.integers(0, 4),
    bad=st.sampled_from([math.nan, math.inf, -math.inf, 1.0, "x", None, True]),
)
def test_one_bad_log_prob_anywhere(tokens, place, bad):
    sound = answer(tokens)
    assert nonsense(sound, VOCABULARY, len(tokens)) is None
    sound["meta_info"][LOGPROB][place % len(tokens)][0] = bad
    found = nonsense(sound, VOCABULARY, len(tokens))
    assert found.startswith(f"token {place % len(tokens)} ")


def test_vocabulary_of_a_model(tmp_path):
    assert vocabulary_of(TRIANGLES.checkpoint) > 10
    assert vocabulary_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"text_config": {"vocab_size": 7}}')
    assert vocabulary_of(tmp_path) == 7
