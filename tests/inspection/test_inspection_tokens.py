"""Numbers and selection of a response's tokens, against training and a naive count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.core import (
    CPLConfig,
    entropy_gain,
    perception_tokens,
    score_hidden,
)
from areal_cppo.errors import RunError
from areal_cppo.inspection.tokens import judge, token_views

KINDS = ("anchor", "positive", "negative")


def random_logits(tokens: int, vocabulary: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: 3 * torch.randn(tokens, vocabulary, generator=generator) for kind in KINDS
    }


def test_two_tokens_by_hand():
    """The first is certain until the image is gone: gain log 2 / (log 2 + 1e-6)."""
    sure, even = [0.0, -math.inf], [0.0, 0.0]
    logits = {
        "anchor": torch.tensor([sure, even]),
        "positive": torch.tensor([sure, sure]),
        "negative": torch.tensor([even, even]),
    }
    numbers = judge(logits, torch.tensor([0, 1]), CPLConfig(), temperature=1.0)
    log2 = math.log(2)
    assert numbers.gain.tolist() == pytest.approx([log2 / (log2 + 1e-6), 0.0])
    assert numbers.selected.tolist() == [True, False]
    assert numbers.entropy["negative"].tolist() == pytest.approx([log2, log2])
    assert numbers.probability["anchor"].tolist() == pytest.approx([1.0, 0.5])
    assert numbers.probability["negative"].tolist() == pytest.approx([0.5, 0.5])
    assert numbers.divergence["positive"][0].item() == pytest.approx(0.0)
    assert numbers.divergence["negative"].tolist() == pytest.approx([log2, 0.0])


def naive(rows: torch.Tensor, temperature: float) -> list[list[float]]:
    """Probabilities, in Python."""
    result = []
    for row in rows.tolist():
        powers = [math.exp(value / temperature) for value in row]
        result.append([power / sum(powers) for power in powers])
    return result


@given(st.integers(1, 300), st.integers(2, 9), st.floats(0.3, 2.0), st.integers(0, 99))
def test_numbers_are_those_of_a_naive_count(tokens, vocabulary, temperature, seed):
    logits = random_logits(tokens, vocabulary, seed)
    labels = torch.arange(tokens) % vocabulary
    numbers = judge(logits, labels, CPLConfig(), temperature)
    chances = {kind: naive(rows, temperature) for kind, rows in logits.items()}
    for kind in KINDS:
        entropy = [-sum(p * math.log(p) for p in row if p) for row in chances[kind]]
        assert numbers.entropy[kind].tolist() == pytest.approx(entropy, abs=1e-4)
        of_label = [row[t % vocabulary] for t, row in enumerate(chances[kind])]
        assert numbers.probability[kind].tolist() == pytest.approx(of_label, abs=1e-5)
    for kind in KINDS[1:]:
        kl = [
            sum(p * math.log(p / q) for p, q in zip(anchor, view, strict=True) if p)
            for anchor, view in zip(chances["anchor"], chances[kind], strict=True)
        ]
        assert numbers.divergence[kind].tolist() == pytest.approx(kl, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_fraction": 0.1},
        {"quota": "floor", "top_fraction": 0.3},
        {"min_gain": 0.2},
        {"selection": "all"},
    ],
)
def test_selection_is_that_of_training(settings):
    """Of one response all of whose tokens pass the gate, by its hidden states."""
    config = CPLConfig(**settings)
    tokens, vocabulary, temperature = 47, 31, 0.7
    logits = random_logits(tokens, vocabulary, seed=4)
    every = torch.ones(tokens, dtype=torch.bool)
    nothing = torch.zeros(tokens, dtype=torch.long)
    scores = score_hidden(
        logits["anchor"], logits["negative"], lambda rows: rows, temperature
    )
    entropies = scores.anchor_entropy, scores.negative_entropy
    chosen = perception_tokens(
        config, *entropies, every, nothing, vocabulary=vocabulary
    )
    numbers = judge(logits, nothing, config, temperature)
    assert torch.equal(numbers.selected, chosen)
    assert torch.allclose(numbers.gain, entropy_gain(*entropies), atol=1e-6)
    assert torch.allclose(numbers.divergence["negative"], scores.divergence, atol=1e-5)


def test_random_selection_takes_as_many_and_depends_on_the_seed():
    logits = random_logits(60, 7, seed=2)
    labels = torch.arange(60) % 7
    by_gain = judge(logits, labels, CPLConfig(), 1.0).selected
    config = CPLConfig(selection="random")
    drawn = [judge(logits, labels, config, 1.0, seed).selected for seed in (1, 1, 2)]
    assert int(drawn[0].sum()) == int(by_gain.sum())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_number_is_told(kind):
    logits = random_logits(5, 4, seed=0)
    logits[kind][2] = math.nan
    with pytest.raises(RunError, match=f"1 of 5 tokens given the {kind} image"):
        judge(logits, torch.zeros(5, dtype=torch.long), CPLConfig(), 1.0)


def test_tokens_for_the_report():
    numbers = judge(
        random_logits(3, 5, seed=1), torch.tensor([0, 1, 2]), CPLConfig(), 1.0
    )
    tokens = token_views(["a", "b", ""], numbers, ["R", "", "T"])
    assert [token.text for token in tokens] == ["a", "b", ""]
    assert [token.role for token in tokens] == ["R", "", "T"]
    for at, token in enumerate(tokens):
        assert token.selected is bool(numbers.selected[at])
        assert token.gain == numbers.gain[at].item()
        for name in ("entropy", "probability", "divergence"):
            for kind, values in getattr(numbers, name).items():
                assert getattr(token, f"{kind}_{name}") == values[at].item()
    assert {token.role for token in token_views(["a"] * 3, numbers)} == {""}
