"""The random control: which tokens it marks, and on what that depends.

Covers a naive per-sequence loop over the same generators, the numbers it copies from
another selection, independence of packing and of ineligible tokens, uniformity, the
global random state and refusals.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.core import image_digest, select_random_tokens, view_seed

# Sequences of ids; of each position whether it is eligible, and whether `like` has it.
tokens = st.lists(
    st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5, unique=True
).flatmap(
    lambda ids: st.lists(
        st.tuples(st.sampled_from(("no", "eligible", "like")), st.sampled_from(ids)),
        max_size=50,
    )
)


def select(kinds, ids, seed_of):
    """Call the code under test with lists and a seed for each id."""
    return select_random_tokens(
        torch.tensor([kind != "no" for kind in kinds], dtype=torch.bool),
        torch.tensor(ids, dtype=torch.long),
        torch.tensor([kind == "like" for kind in kinds], dtype=torch.bool),
        [seed_of(i) for i in sorted(set(ids))],
    ).tolist()


def seed_of(sequence: int) -> int:
    return view_seed(3, 1, str(sequence).encode(), "tokens")


def columns(rows):
    return [kind for kind, _ in rows], [i for _, i in rows]


def naive(kinds, ids):
    """Reference: sequence by sequence, one draw a position, by Python's sort."""
    chosen = [False] * len(ids)
    for sequence in set(ids):
        positions = [t for t, i in enumerate(ids) if i == sequence]
        generator = torch.Generator().manual_seed(seed_of(sequence))
        draws = torch.rand(len(positions), generator=generator, dtype=torch.float64)
        score = dict(zip(positions, draws.tolist()))
        ranked = sorted(
            (t for t in positions if kinds[t] != "no"), key=lambda t: -score[t]
        )
        for t in ranked[: sum(kinds[t] == "like" for t in positions)]:
            chosen[t] = True
    return chosen


@given(tokens)
def test_equals_the_naive_loop(rows):
    kinds, ids = columns(rows)
    assert select(kinds, ids, seed_of) == naive(kinds, ids)


@given(tokens, st.randoms(use_true_random=False))
def test_packing_changes_no_choice(rows, random):
    """A sequence alone, in any company and interleaving: the same tokens."""
    kinds, ids = columns(rows)
    whole = select(kinds, ids, seed_of)
    for sequence in set(ids):
        mine = [t for t, i in enumerate(ids) if i == sequence]
        alone = select(
            [kinds[t] for t in mine], [7] * len(mine), lambda _: seed_of(sequence)
        )
        assert alone == [whole[t] for t in mine]
    queues = {i: [t for t, j in enumerate(ids) if j == i] for i in set(ids)}
    slots = list(ids)
    random.shuffle(slots)
    order = [queues[i].pop(0) for i in slots]
    again = select([kinds[t] for t in order], slots, seed_of)
    assert again == [whole[t] for t in order]


def test_another_seed_or_version_draws_anew_and_only_for_its_sequence():
    ids = torch.tensor([0, 1] * 100)
    everything = torch.ones(200, dtype=torch.bool)
    half = torch.arange(200) % 4 < 2
    digests = [image_digest(torch.tensor([1, 2, 3])), image_digest(torch.tensor([4]))]

    def choose(run_seed=0, version=0):
        seeds = [view_seed(run_seed, version, digest, "tokens") for digest in digests]
        return select_random_tokens(everything, ids, half, seeds)

    base = choose()
    assert torch.equal(base, choose())
    assert not torch.equal(base, choose(run_seed=1))
    assert not torch.equal(base, choose(version=1))
    assert not torch.equal(base[ids == 0], base[ids == 1]), "sequences share a draw"
    mixed = select_random_tokens(
        everything, ids, half, [view_seed(0, 0, digests[0], "tokens"), 12345]
    )
    assert torch.equal(mixed[ids == 0], base[ids == 0])
    assert not torch.equal(mixed[ids == 1], base[ids == 1])


def test_is_uniform_and_leaves_the_global_state():
    state = torch.get_rng_state()
    eligible = torch.tensor([True] * 8 + [False] * 3)
    ids = torch.zeros(11, dtype=torch.long)
    two = torch.arange(11) < 2
    hits = sum(
        select_random_tokens(
            eligible, ids, two, [view_seed(0, draw, b"", "tokens")]
        ).long()
        for draw in range(2000)
    )
    # 2 of 8 tokens: 500 hits each; the standard deviation is 19.
    assert (hits[:8] - 500).abs().max() < 100 and (hits[8:] == 0).all()
    assert torch.equal(state, torch.get_rng_state())


def test_empty_input_and_sequences_without_an_eligible_token():
    assert select([], [], seed_of) == []
    assert select(["no", "like"], [1, 2], seed_of) == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1]}, "seeds: expected 2, one per distinct sequence id, found 1"),
        ({"seeds": [1, 2, 3]}, "seeds: expected 2, .* found 3"),
        ({"like": torch.ones(3)}, "like: expected a bool tensor"),
        ({"like": torch.ones(2, dtype=torch.bool)}, "like: expected shape .3."),
        (
            {"eligible": torch.tensor([True, False, True])},
            "like: expected eligible tokens only, found 1 others",
        ),
        ({"eligible": torch.ones(3)}, "eligible: expected a bool tensor"),
        ({"sequence_ids": torch.zeros(4)}, "sequence_ids: expected shape"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "eligible": torch.ones(3, dtype=torch.bool),
        "sequence_ids": torch.tensor([4, 9, 4]),
        "like": torch.tensor([True, True, False]),
        "seeds": [1, 2],
    }
    with pytest.raises(ValueError, match=message):
        select_random_tokens(**(arguments | change))
