"""Sums over words and tokens that keep their digits: in fp32, whatever goes in.

A row of 150k log-probabilities in fp32 sums to 1 but for about 1e-6, and that rounding
of its normalisation is common to all words. In ``sum p (log p - log q)`` and in
``-sum p log p`` it stays as it is, so that small values drown in it; the sums here have
it times the value, so that what they return is good to a few 1e-6 of itself.

Letters: ``n`` rows, ``V`` vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from areal_cppo.checks import POSITIVE, check_argument

# Stands for log 0, the log-probability of a word whose logit is -inf. Far below any of
# finite half-precision logits, and its square is still finite in fp32.
MIN_LOG_PROB = -1e9


def single(values: Tensor) -> Tensor:
    """Return half-precision values in fp32, and fp32 or fp64 ones as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def log_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute log-probabilities in fp32, finite whatever the logits.

    Parameters
    ----------
    logits
        ``[..., V]``, any float dtype; -inf marks a word that cannot occur.
    temperature
        What logits are divided by, > 0.

    Returns
    -------
    Tensor
        ``[..., V]`` fp32, nats, in ``[-1e9, 0]``; not a number where logits are not, or
        one is infinite.

    Raises
    ------
    ValueError
        The temperature is not > 0.
    """
    check_argument(
        "temperature",
        temperature,
        POSITIVE,
        "pass the temperature that the tokens were sampled with",
    )
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    on_cpu = scaled.device.type == "cpu"
    log_p = _LogSoftmax.apply(scaled) if on_cpu else torch.log_softmax(scaled, dim=-1)
    return log_p.clamp(min=MIN_LOG_PROB)


class _LogSoftmax(torch.autograd.Function):
    """``torch.log_softmax`` along the last axis, for CPUs.

    There torch's own adds a row up word by word, and 150k words later is 1e-4 nats off;
    ``sum`` adds in pairs. The same is kept for the backward pass: the result.
    """

    @staticmethod
    def forward(ctx: Any, scaled: Tensor) -> Tensor:
        """Return ``[..., V]``, of the same."""
        log_p = scaled - scaled.amax(dim=-1, keepdim=True)
        log_p.sub_(log_p.exp().sum(dim=-1, keepdim=True).log_())
        ctx.save_for_backward(log_p)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return ``grad - p sum(grad)``."""
        (log_p,) = ctx.saved_tensors
        return log_p.exp().mul_(-grad.sum(dim=-1, keepdim=True)).add_(grad)


@torch.no_grad()
def row_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute KL(p || q) per row from log-probabilities ``[n, V]``: ``[n]``, >= 0.

    As ``sum p d - p + q`` with ``d = log p - log q``, every term of which is >= 0. Down
    to d = -1 a term is ``p (d + expm1(-d))``, no difference of p and q, which are
    rounded; what is missing beyond is ``q - e p``.
    """
    x = log_q - log_p  # -d
    factor = x.clamp(max=1).expm1_().sub_(x)
    p = log_p.exp()
    terms = torch.exp(log_q, out=x).sub_(p, alpha=math.e).relu_()
    return terms.addcmul_(p, factor).sum(dim=-1).clamp_(min=0)  # 0: by an ulp below


def row_entropy(log_p: Tensor) -> Tensor:
    """Compute the entropy per row of log-probabilities ``[n, V]``: ``[n]`` nats, >= 0.

    Differentiable. As ``sum (p - p log p) - 1``, the 1 taken off the likeliest word's
    term before the sum: of a distribution that is next to certain all digits are left.
    """
    p = log_p.exp()
    terms = torch.addcmul(p, p, log_p, value=-1)
    top, at = log_p.max(dim=-1, keepdim=True)
    terms.scatter_(-1, at, torch.expm1(top) - top * top.exp())
    return terms.sum(dim=-1).clamp(min=0)
