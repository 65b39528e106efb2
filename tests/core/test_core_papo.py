"""PAPO: its settings, its divergence and its loss, and what the docs claim of them.

Covers closed forms, a naive loop, expectations worked out over a whole vocabulary,
gradient routing and refusals. Through the model it is in tests/step/test_papo.py.
"""

import dataclasses
import math

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from areal_cppo.core import PAPOConfig, papo_loss, perception_divergence


def distributions(seed: int = 0, words: int = 13, sharpness: float = 1.0):
    """Two logits over a small vocabulary, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, words, generator=generator, dtype=torch.float64)
    return (sharpness * logits).requires_grad_()


def test_divergence_closed_form():
    """r = 0, log 2 and -log 2: 0, 1/2 - 1 + log 2, 2 - 1 - log 2."""
    anchor = torch.tensor([-1.0, -1.0, -1.0 - math.log(2)])
    negative = torch.tensor([-1.0, -1.0 - math.log(2), -1.0])
    found = perception_divergence(anchor, negative)
    expected = torch.tensor([0.0, -0.5 + math.log(2), 1 - math.log(2)])
    torch.testing.assert_close(found, expected)


def test_divergence_is_unbiased():
    """Its mean over tokens that the policy samples is KL[pi || pi_negative]."""
    log_p, log_q = torch.log_softmax(distributions(), -1)
    mean = (log_p.exp() * perception_divergence(log_p, log_q)).sum()
    torch.testing.assert_close(mean, (log_p.exp() * (log_p - log_q)).sum())


def test_divergence_equals_a_loop():
    generator = torch.Generator().manual_seed(1)
    anchor, negative = -3 * torch.rand(2, 47, generator=generator)
    found = perception_divergence(anchor, negative, 1.0)
    for value, p, q in zip(found.tolist(), anchor.tolist(), negative.tolist()):
        ratio = math.exp(q - p)  # pi_negative / pi
        assert value == pytest.approx(min(1.0, ratio - math.log(ratio) - 1), abs=1e-5)


def test_beyond_the_bound_there_is_no_gradient():
    anchor = torch.tensor([-9.0, -4.0, -30.0], requires_grad=True)
    negative = torch.tensor([-5.0, -3.0, -1.0], requires_grad=True)
    found = perception_divergence(anchor, negative, 10.0)
    assert found.tolist()[0] == 10.0 and found.tolist()[2] == 10.0
    found.sum().backward()
    assert anchor.grad[[0, 2]].eq(0).all() and negative.grad[[0, 2]].eq(0).all()
    assert anchor.grad[1] == pytest.approx(1 - math.e, rel=1e-5)
    assert negative.grad[1] == pytest.approx(math.e - 1, rel=1e-5)


def test_without_a_bound_it_is_still_finite():
    anchor = torch.tensor([-1e9, 0.0], requires_grad=True)
    found = perception_divergence(anchor, torch.tensor([0.0, -1e9]), None)
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(anchor.grad).all()


def test_divergence_routes_gradient_to_both():
    anchor = torch.tensor([-1.0], requires_grad=True)
    negative = torch.tensor([-2.0], requires_grad=True)
    perception_divergence(anchor, negative).sum().backward()
    torch.testing.assert_close(anchor.grad, torch.tensor([1 - math.exp(-1)]))
    torch.testing.assert_close(negative.grad, -anchor.grad)
    anchor.grad = None
    perception_divergence(anchor, torch.tensor([-2.0])).sum().backward()
    torch.testing.assert_close(anchor.grad, torch.tensor([1 - math.exp(-1)]))


def test_loss_closed_form():
    terms = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]), torch.tensor([5.0, 0.5])
    found = papo_loss(*terms, gamma=0.01, eta1=0.03, eta2=0.2)
    torch.testing.assert_close(found, torch.tensor([-0.02 + 0.03 + 1.0, 0.09 + 0.1]))


def test_loss_routes_gradient_by_its_weights():
    terms = torch.ones(3, 4, requires_grad=True)
    papo_loss(*terms, gamma=0.5, eta1=0.25, eta2=2.0).sum().backward()
    expected = torch.tensor([-0.5, 0.25, 2.0]).unsqueeze(1).expand(3, 4)
    torch.testing.assert_close(terms.grad, expected)
    terms.grad = None
    papo_loss(*terms, gamma=0.0, eta1=0.0, eta2=0.0).sum().backward()
    assert terms.grad.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_single(dtype):
    """Both results are beyond what fp16 holds."""
    anchor, negative = torch.tensor([[-16.0], [-1.0]], dtype=dtype)
    found = perception_divergence(anchor, negative)
    torch.testing.assert_close(found, torch.tensor([math.exp(15) - 16]))
    terms = torch.full((3, 1), 49152.0, dtype=dtype)
    found = papo_loss(*terms, gamma=0.5, eta1=1.0, eta2=1.0)
    torch.testing.assert_close(found, torch.tensor([1.5 * 49152]))


def mean_gradient(of_token, logits) -> torch.Tensor:
    """Gradient of a term's mean over sampled tokens, with the sampling held."""
    log_p, log_q = torch.log_softmax(logits, -1)
    sampled = log_p.exp().detach()
    return torch.autograd.grad((sampled * of_token(log_p, log_q)).sum(), logits)[0]


def test_the_sampled_entropy_of_the_anchor_has_no_gradient_on_average():
    """Deviation 3 of the module: that of on-policy tokens is zero on average."""
    found = mean_gradient(lambda log_p, log_q: -log_p, distributions())
    torch.testing.assert_close(found, torch.zeros_like(found))


def test_the_sampled_entropy_of_the_negative_view_undoes_the_perception_loss_there():
    """On average it is the divergence's gradient in the negative view, negated: eta2
    beyond gamma pulls the negative view's distribution towards the anchor's."""
    logits = distributions()
    entropy = mean_gradient(lambda log_p, log_q: -log_q, logits)
    divergence = mean_gradient(lambda p, q: perception_divergence(p, q), logits)
    torch.testing.assert_close(entropy[1], divergence[1])
    assert divergence[1].norm() > 0.1


def test_refuses_tensors_of_other_tokens():
    with pytest.raises(ValueError, match="negative_logprobs: expected shape .2."):
        perception_divergence(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="negative_entropy: expected shape .2."):
        papo_loss(torch.zeros(2), torch.zeros(2), torch.zeros(3), 1, 1, 1)


def test_defaults_are_the_published_ones():
    config = PAPOConfig()
    assert (config.gamma, config.eta1, config.eta2) == (0.01, 0.03, 0.0)
    assert (config.divergence, config.max_divergence) == ("k3", 10.0)
    assert (config.entropy, config.negative_grad) == ("sampled", False)
    assert config.aggregation == "token"
    assert config.views == [{"name": "black_squares", "coverage": 0.6, "square": 14}]
    assert config.has_effect
    assert not PAPOConfig(gamma=0, eta1=0).has_effect
    for item in dataclasses.fields(PAPOConfig):
        assert len(item.metadata["help"]) > 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": -0.1}, "papo.gamma: expected a number in [0, 1000], found -0.1"),
        ({"eta1": "much"}, "papo.eta1: expected a number in [0, 1000]"),
        ({"eta2": 0.03}, "papo.eta2: expected 0 with papo.negative_grad=false"),
        ({"divergence": "k1"}, "papo.divergence: expected one of k3, kl, found 'k1'"),
        ({"entropy": "none"}, "papo.entropy: expected one of sampled, full"),
        ({"max_divergence": 0}, "papo.max_divergence: expected a number in (0, 1e"),
        ({"negative_grad": 1}, "papo.negative_grad: expected true or false"),
        ({"aggregation": "batch"}, "papo.aggregation: expected one of sequence, token"),
        ({"views": []}, "papo.views: expected at least one perturbation"),
        (
            {"views": [{"name": "blank", "probability": 0}]},
            "papo.views: expected at least one perturbation of probability > 0",
        ),
        ({"staleness": None}, "papo.staleness: expected a PAPOStalenessConfig"),
    ],
    ids=str,
)
def test_refused_in_one_line(values, message):
    with pytest.raises(ValueError) as caught:
        PAPOConfig(**values)
    assert str(caught.value).startswith(message)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_through_omegaconf():
    schema = OmegaConf.structured(PAPOConfig)
    text = """
    {gamma: 0.02, eta2: 0.05, negative_grad: true, max_divergence: null,
     views: [{name: blank}], staleness: {decay: 0.5}}
    """
    config = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(text)))
    assert isinstance(config, PAPOConfig)
    assert (config.gamma, config.eta2, config.max_divergence) == (0.02, 0.05, None)
    assert config.views == [{"name": "blank"}] and config.staleness.decay == 0.5
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(schema, {"coef": 1.0})
    bad = OmegaConf.merge(schema, {"staleness": {"decay": 2.0}})
    with pytest.raises(ValueError, match="papo.staleness.decay: expected a number"):
        OmegaConf.to_object(bad)
