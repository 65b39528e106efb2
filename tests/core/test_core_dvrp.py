"""DVRP: its settings and its loss.

Covers the closed form, gradient routing and refusals. Through the model it is in
tests/step/test_dvrp.py.
"""

import dataclasses

import pytest
import torch
from omegaconf import OmegaConf

from areal_cppo.core import DVRPConfig, dvrp_loss
from areal_cppo.core.dvrp import DVRPViewsConfig

WEIGHTS = {"lambda_nec": 0.5, "lambda_rob": 0.25, "lambda_ent": 2.0}


def test_loss_closed_form():
    """-.5 * 2 + .25 * 4 + 2 (1 + 3), and entropies alone."""
    negative, positive = torch.tensor([2.0, 0.0]), torch.tensor([4.0, 0.0])
    entropies = torch.tensor([1.0, 0.5]), torch.tensor([3.0, 0.25])
    found = dvrp_loss(negative, positive, *entropies, **WEIGHTS)
    torch.testing.assert_close(found, torch.tensor([8.0, 1.5]))


def test_loss_routes_gradient_by_its_weights():
    terms = torch.ones(4, 3, requires_grad=True)
    dvrp_loss(*terms, **WEIGHTS).sum().backward()
    expected = torch.tensor([-0.5, 0.25, 2.0, 2.0]).unsqueeze(1).expand(4, 3)
    torch.testing.assert_close(terms.grad, expected)


def test_halves_are_summed_in_single():
    """The result is beyond what fp16 holds."""
    terms = torch.full((4, 1), 32768.0, dtype=torch.float16)
    assert dvrp_loss(*terms, **WEIGHTS).tolist() == [3.75 * 32768]


def test_refuses_tensors_of_other_tokens():
    terms = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="positive_entropy: expected shape .2."):
        dvrp_loss(*terms, torch.zeros(3), **WEIGHTS)


def test_defaults_are_the_published_ones():
    config = DVRPConfig()
    weights = (config.lambda_nec, config.lambda_rob, config.lambda_ent)
    assert weights == (0.01, 0.01, 0.05)
    assert (config.divergence, config.max_divergence) == ("kl", 10.0)
    assert config.grad == ["anchor", "positive", "negative"]
    (masked,) = config.views.negative
    assert masked == {"name": "black_squares", "coverage": 0.6, "square": 14}
    assert config.has_effect and config.views_with_graph == 2
    assert DVRPConfig(grad=["anchor", "negative"]).views_with_graph == 1
    for item in dataclasses.fields(DVRPConfig):
        assert len(item.metadata["help"]) > 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda_nec": -0.1}, "dvrp.lambda_nec: expected a number in [0, 1000], f"),
        ({"divergence": "k1"}, "dvrp.divergence: expected one of kl, k3, found 'k1'"),
        ({"max_divergence": 0}, "dvrp.max_divergence: expected a number in (0, 1e"),
        ({"grad": []}, "dvrp.grad: expected a non-empty list"),
        ({"grad": ["anchor"]}, "dvrp.lambda_ent: expected 0 with dvrp.grad=[anchor]"),
        ({"aggregation": "batch"}, "dvrp.aggregation: expected one of sequence, token"),
        ({"responses": 0}, "dvrp.responses: expected "),
        ({"staleness": None}, "dvrp.staleness: expected a DVRPStalenessConfig"),
    ],
    ids=str,
)
def test_refused_in_one_line(values, message):
    with pytest.raises(ValueError) as caught:
        DVRPConfig(**values)
    assert str(caught.value).startswith(message)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_through_omegaconf():
    schema = OmegaConf.structured(DVRPConfig)
    own = {"lambda_ent": 0, "grad": ["anchor"], "views": {"positive": [{"name": "x"}]}}
    bad = OmegaConf.merge(schema, own)
    with pytest.raises(ValueError, match=r"dvrp.views.positive\[0\].name: expected"):
        OmegaConf.to_object(bad)
    own["views"] = {"negative": [{"name": "blank"}]}
    config = OmegaConf.to_object(OmegaConf.merge(schema, own))
    assert isinstance(config.views, DVRPViewsConfig) and config.grad == ["anchor"]
    with pytest.raises(ValueError, match="dvrp.views.negative: expected at least one"):
        DVRPViewsConfig(negative=[{"name": "blank", "probability": 0}])
