"""The ledger of problems: each is trained on once an epoch, whatever happens."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.errors import RunError, UserError
from areal_cppo.rollout.ledger import PromptLedger, PromptLoader, Ranges

sizes = st.integers(1, 12)


def test_places_go_on_from_epoch_to_epoch():
    ledger = PromptLedger(3, seed=1, shuffle=False)
    assert [ledger.problem(place) for place in range(7)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
    ]


@given(sizes, st.integers(0, 5), st.integers(0, 5))
def test_each_epoch_has_each_problem_once_in_an_order_of_its_seed(size, seed, epoch):
    def order(seed, epoch):
        ledger = PromptLedger(size, seed)
        places = range(epoch * size, (epoch + 1) * size)
        return [ledger.problem(place) for place in places]

    assert sorted(order(seed, epoch)) == [(epoch, index) for index in range(size)]
    assert order(seed, epoch) == order(seed, epoch)
    if size > 8:
        assert order(seed, epoch) != [(epoch, i) for i in range(size)]
        assert [i for _, i in order(seed, 0)] != [i for _, i in order(seed, 1)]


@given(
    size=sizes,
    batch=st.integers(1, 4),
    moves=st.lists(
        st.tuples(st.sampled_from(["take", "fail", "train", "crash"]), st.floats(0, 1)),
        max_size=120,
    ),
)
def test_nothing_is_trained_twice_and_nothing_passed_over(size, batch, moves):
    """However often it fails or is cut off: in order, but for what is out."""
    ledger = PromptLedger(size, seed=3, attempts=2)
    trained, given_up, failures = [], set(), Counter()
    out: list[int] = []
    saved = json.dumps(ledger.state_dict())
    kept = [], set(), Counter()  # what was true when it was saved

    for move, which in moves:
        pick = int(which * (len(out) - 1)) if out else 0
        if move == "take":
            out.append(ledger.take())
        elif move == "fail" and out:
            place = out.pop(pick)
            failures[place] += 1
            again = ledger.give_back(place)
            assert again == (failures[place] < 2)
            if not again:
                given_up.add(place)
        elif move == "train" and len(out) >= batch:
            out.sort()
            step, out = out[:batch], out[batch:]
            ledger.trained(step)
            trained += step
            saved = json.dumps(ledger.state_dict())
            kept = list(trained), set(given_up), Counter(failures)
        elif move == "crash":
            ledger = PromptLedger(size, seed=3, attempts=2)
            ledger.load_state_dict(json.loads(saved))
            trained, given_up, failures = list(kept[0]), set(kept[1]), Counter(kept[2])
            out = []
        assert len(set(trained)) == len(trained)
        assert len(set(out)) == len(out)
        assert not set(out) & (set(trained) | given_up)
    # What is handed out now is the first of what is neither out nor done.
    done = set(out) | set(trained) | given_up
    expected = next(place for place in range(10**6) if place not in done)
    assert ledger.take() == expected
    assert ledger.given_up == len(given_up)


def test_training_on_what_was_not_handed_out_is_refused():
    ledger = PromptLedger(4, seed=1)
    place = ledger.take()
    ledger.trained([place])
    for wrong in ([place], [3]):
        with pytest.raises(ValueError, match="not out"):
            ledger.trained(wrong)


@pytest.mark.parametrize(
    ("settings", "named"),
    [((5, 1, True), "size"), ((4, 2, True), "seed"), ((4, 1, False), "shuffle")],
)
def test_other_data_is_refused(settings, named):
    state = PromptLedger(4, 1, True).state_dict()
    with pytest.raises(UserError, match=f"{named} .*found {named}") as refusal:
        PromptLedger(*settings).load_state_dict(state)
    assert "\n" not in str(refusal.value)


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_a_set(values):
    ranges = Ranges()
    for value in values:
        ranges.add(value)
    again = Ranges(json.loads(json.dumps(ranges.to_list())))
    for some in (ranges, again):
        assert {value for value in range(70) if value in some} == values
        assert len(some) == len(values)
        assert -1 not in some
    runs = ranges.to_list()
    assert all(a[1] < b[0] for a, b in zip(runs, runs[1:], strict=False))


class Dataset(list):
    """Problems, of which some can't be read, some of those only at first."""

    def __init__(self, size, broken=(), shy=()):
        super().__init__(range(size))
        self.broken, self.shy = set(broken), set(shy)

    def __getitem__(self, index):
        if index in self.broken or index in self.shy:
            self.shy.discard(index)
            raise RunError(f"the image of {index} is torn")
        return {"problem": index}


def loader(dataset, attempts=2):
    said: list[str] = []
    made = PromptLoader(
        dataset, 2, PromptLedger(len(dataset), 1, shuffle=False, attempts=attempts)
    )
    made.on_unreadable = said.append
    return made, said


def test_a_problem_that_cannot_be_read_is_tried_again_then_given_up():
    made, said = loader(Dataset(5, broken={1}, shy={2}))
    assert len(made) == 2  # steps: the fifth problem is of the next epoch's first
    taken = [made.take() for _ in range(4)]
    assert [data["problem"] for _, data in taken] == [0, 2, 3, 4]
    assert made.ledger.given_up == 1
    assert [text.split(":")[-1].strip() for text in said] == [
        "to be tried again",
        "given up",
        "to be tried again",
    ]


def test_when_nothing_can_be_read_it_ends():
    made, _ = loader(Dataset(1000, broken=range(1000)))
    with pytest.raises(RunError, match="64 in a row"):
        made.take()
