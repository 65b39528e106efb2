"""The contrast at tokens that read, against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal_cppo.core import CPLConfig
from areal_cppo.studies.detection import CONTRAST, contrast


def logits(*rows: list[float]) -> torch.Tensor:
    """Of the probabilities in `rows`."""
    return torch.tensor(rows).log()


def test_by_hand():
    """Anchor (.8, .2), the read token first; the negative view knows nothing. The
    first token's positive view agrees with the anchor, the second's misreads."""
    anchor = logits([0.8, 0.2], [0.8, 0.2])
    positive = logits([0.8, 0.2], [0.2, 0.8])
    negative = logits([0.5, 0.5], [0.5, 0.5])
    found = contrast(
        CPLConfig(tau=1.0), torch.tensor([0, 0]), anchor, positive, negative
    )
    to_negative = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    to_misread = 0.6 * math.log(4)
    weights = [
        1 / (1 + math.exp(to_negative)),
        1 / (1 + math.exp(to_negative - to_misread)),
    ]
    # d D / d logit of the first word = p (log p - log q - D), for the views in turn.
    of_negative = 0.8 * (math.log(1.6) - to_negative)
    of_misread = 0.8 * (math.log(4) - to_misread)
    pushes = [weights[0] * of_negative, weights[1] * (of_negative - of_misread)]
    assert pushes[0] > 0 > pushes[1]
    assert found["contrast_weight"] == pytest.approx(sum(weights) / 2, rel=1e-5)
    assert found["contrast_push"] == pytest.approx(sum(pushes) / 2, rel=1e-5)
    assert found["contrast_misread"] == pytest.approx(
        weights[1] / sum(weights), rel=1e-5
    )
    assert found["positive_misreads"] == 0.5
    assert found["negative_reads"] == 1.0  # of two equal words the first


def test_a_small_tau_leaves_only_the_misread():
    """The published tau: of the two tokens above the second has all the weight."""
    anchor, negative = logits([0.8, 0.2], [0.8, 0.2]), logits([0.5, 0.5], [0.5, 0.5])
    positive = logits([0.8, 0.2], [0.2, 0.8])
    shares = [
        contrast(CPLConfig(tau=tau), torch.tensor([0, 0]), anchor, positive, negative)
        for tau in (0.1, 1.0, 10.0)
    ]
    misread = [found["contrast_misread"] for found in shares]
    assert misread[0] > 0.85 > misread[1] > misread[2] > 0.5
    assert shares[0]["contrast_push"] < 0


@given(
    st.sampled_from(["kl", "k1", "k2", "k3"]), st.integers(1, 6), st.integers(0, 2**16)
)
def test_push_is_the_slope_of_the_loss(divergence, count, seed):
    """Against finite differences of a loss written out once more, in doubles."""
    source = torch.Generator().manual_seed(seed)
    shape = (count, 5)
    anchor, positive, negative = (torch.randn(shape, generator=source) for _ in "apn")
    labels = torch.randint(0, 5, (count,), generator=source)
    rows = torch.arange(count)

    def loss(anchor: torch.Tensor) -> torch.Tensor:
        log_p = anchor.double().log_softmax(-1)
        divergences = []
        for view in (positive, negative):
            log_ratio = log_p - view.double().log_softmax(-1)
            r = log_ratio[rows, labels]
            divergences.append(
                {
                    "kl": (log_p.exp() * log_ratio).sum(-1),
                    "k1": r,
                    "k2": r**2 / 2,
                    "k3": (-r).exp() - 1 + r,
                }[divergence]
            )
        return torch.log1p(((divergences[0] - divergences[1]) / 0.7).exp())

    step = torch.zeros(shape, dtype=torch.float64)
    step[rows, labels] = 1e-5
    slopes = (loss(anchor.double() + step) - loss(anchor.double() - step)) / 2e-5
    cpl = CPLConfig(tau=0.7, divergence=divergence)
    found = contrast(cpl, labels, anchor, positive, negative)
    assert found["contrast_push"] == pytest.approx(-float(slopes.mean()), abs=1e-4)


def test_no_tokens():
    nothing = torch.zeros(0, 5)
    labels = torch.zeros(0, dtype=torch.int64)
    found = contrast(CPLConfig(), labels, nothing, nothing, nothing)
    assert found == dict.fromkeys(CONTRAST)
