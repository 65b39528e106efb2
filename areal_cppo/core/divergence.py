"""How far a view's token distribution is from the anchor's.

arXiv 2601.00501 speaks of a divergence between token distributions: ``kl`` is that.
Its published code estimates it from the sampled token: ``k3`` in verl, ``k1`` in the
AReaL fork, where the anchor cancels out of the difference of two divergences. The
estimators are those of http://joschu.net/blog/kl-approx.html. Deviation: verl cuts k3
off at 10, with no gradient beyond; here only its exponent is bounded.

Letters: ``N`` selected tokens, ``V`` vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from areal_cppo.checks import Choice, check_argument
from areal_cppo.core.precision import MIN_LOG_PROB, log_probs, row_kl, single
from areal_cppo.core.shapes import check_shapes

KINDS = ("kl", "k1", "k2", "k3")

# exp() cannot overflow: exp(20) is 5e8, whose square summed over a million tokens (a
# gradient norm) is still finite in fp32. Beyond it the gradient is 0.
_MAX_LOG_RATIO = 20.0
_MAX_FP16 = torch.finfo(torch.float16).max
_CHUNK = 128  # rows in fp32 at a time: 80 MB each with a vocabulary of 150k


class _Divergence(torch.autograd.Function):
    """A divergence per row, with its closed-form gradient.

    With p, q the two distributions, d = log p - log q and e the label's unit vector:

    - KL(anchor || view) has the gradient p (d - KL) in the anchor's logits and q - p in
      the view's;
    - an estimator f(r), r = d(label), has f'(r) (e - p) and f'(r) (q - e);

    all divided by the temperature. Those of KL, k2 and k3 are exactly 0 where the
    logits are equal, which automatic differentiation misses by rounding. Only the
    inputs are kept for the backward pass, and only a chunk of rows is in fp32 at a
    time; automatic differentiation would keep about five [N, V] in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchor_logits: Tensor,
        view_logits: Tensor,
        labels: Tensor,
        kind: str,
        temperature: float,
    ) -> Tensor:
        """Return ``[N]`` fp32 from two ``[N, V]``."""
        measured = []  # KL, or the log-ratio of the label
        inside = []  # for either branch: the label's log-probability was not clamped
        for anchor, view, label in zip(
            anchor_logits.split(_CHUNK), view_logits.split(_CHUNK), labels.split(_CHUNK)
        ):
            log_p, log_q = log_probs(anchor, temperature), log_probs(view, temperature)
            if kind == "kl":
                measured.append(row_kl(log_p, log_q))
                continue
            of_label = torch.cat(
                [log.gather(1, label.unsqueeze(1)) for log in (log_p, log_q)], dim=1
            )
            measured.append(of_label[:, 0] - of_label[:, 1])
            inside.append(of_label > MIN_LOG_PROB)
        value = torch.cat(measured)
        if kind == "kl":
            ctx.save_for_backward(anchor_logits, view_logits)
        else:
            value, slope = _estimate(value, kind)
            slopes = slope.unsqueeze(1) * torch.cat(inside)
            ctx.save_for_backward(anchor_logits, view_logits, labels, slopes)
        ctx.kind, ctx.temperature = kind, temperature
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, ``[N, V]`` in the logits' dtypes."""
        anchor_logits, view_logits, *kept = ctx.saved_tensors
        to_anchor, to_view = (
            torch.empty_like(logits) if needed else None
            for logits, needed in zip(
                (anchor_logits, view_logits), ctx.needs_input_grad
            )
        )
        of_chunk = _kl_gradients if ctx.kind == "kl" else _estimator_gradients
        for start in range(0, len(grad), _CHUNK):
            rows = slice(start, start + _CHUNK)
            of_chunk(
                anchor_logits[rows],
                view_logits[rows],
                *(tensor[rows] for tensor in kept),
                (grad[rows] / ctx.temperature).unsqueeze(1),
                ctx.temperature,
                None if to_anchor is None else to_anchor[rows],
                None if to_view is None else to_view[rows],
            )
        return to_anchor, to_view, None, None, None


def _kl_gradients(
    anchor_logits: Tensor,
    view_logits: Tensor,
    scale: Tensor,
    temperature: float,
    to_anchor: Tensor | None,
    to_view: Tensor | None,
) -> None:
    """Write KL's gradients of a chunk of n rows.

    Their sums over words are 0 but for rounding, which is taken off: of a small
    divergence it would be a good part. So KL is here what p and d give, not its value.

    Parameters
    ----------
    anchor_logits, view_logits
        ``[n, V]``.
    scale
        ``[n, 1]`` fp32, the incoming gradient over the temperature.
    temperature
        What logits are divided by.
    to_anchor, to_view
        ``[n, V]``, written; ``None`` where nobody asks.
    """
    log_p = log_probs(anchor_logits, temperature)
    log_q = log_probs(view_logits, temperature)
    p = log_p.exp()
    if to_view is not None:
        gap = log_q.exp().sub_(p)
        gap.addcmul_(p, gap.sum(dim=-1, keepdim=True), value=-1)
        _store(to_view, gap.mul_(scale))
    if to_anchor is not None:
        d = log_p.sub_(log_q)
        d.sub_((p * d).sum(dim=-1, keepdim=True))
        _store(to_anchor, d.mul_(p).mul_(scale))


def _estimator_gradients(
    anchor_logits: Tensor,
    view_logits: Tensor,
    labels: Tensor,
    slopes: Tensor,
    scale: Tensor,
    temperature: float,
    to_anchor: Tensor | None,
    to_view: Tensor | None,
) -> None:
    """Write k1's, k2's or k3's gradients of a chunk of n rows.

    Parameters
    ----------
    anchor_logits, view_logits
        ``[n, V]``.
    labels
        ``[n]`` int64.
    slopes
        ``[n, 2]`` fp32, f'(r) for the anchor and for the view.
    scale, temperature, to_anchor, to_view
        As of :func:`_kl_gradients`.
    """
    for branch, (logits, target) in enumerate(
        ((anchor_logits, to_anchor), (view_logits, to_view))
    ):
        if target is None:
            continue
        unit = torch.ones_like(labels, dtype=torch.float32).unsqueeze(1)
        towards = log_probs(logits, temperature).exp_().neg_()
        towards.scatter_add_(1, labels.unsqueeze(1), unit)  # e - p
        sign = 1.0 if branch == 0 else -1.0
        _store(target, towards.mul_(sign * slopes[:, branch : branch + 1] * scale))


def _store(target: Tensor, gradient: Tensor) -> None:
    """Copy fp32 into ``target``'s dtype; beyond fp16's range, its largest value.

    A slope of k2 or k3 may exceed 65,504; an infinity would spoil the whole update.
    """
    if target.dtype == torch.float16:
        gradient.clamp_(-_MAX_FP16, _MAX_FP16)
    target.copy_(gradient)


def _estimate(ratio: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return an estimator of KL and its derivative, both ``[N]``, at log-ratios."""
    if kind == "k1":
        return ratio, torch.ones_like(ratio)
    if kind == "k2":
        return ratio.square() / 2, ratio
    slope = -torch.expm1(-ratio.clamp(min=-_MAX_LOG_RATIO))
    return sampled_kl(ratio), slope * (ratio >= -_MAX_LOG_RATIO)


def sampled_kl(ratio: Tensor) -> Tensor:
    """Estimate KL(p || q) from log-ratios ``log p - log q`` of tokens that p sampled.

    k3, ``exp(-r) - 1 + r``, with r held above -20: differentiable, same shape, >= 0;
    fp32 of half precision.
    """
    held = single(ratio).clamp(min=-_MAX_LOG_RATIO)
    return (torch.expm1(-held) + held).clamp(min=0)


def cut_off(divergence: Tensor, limit: float | None) -> Tensor:
    """Bound divergences from above, without gradient beyond; ``None``: as they are."""
    return divergence if limit is None else divergence.clamp(max=limit)


def token_divergence(
    anchor_logits: Tensor,
    view_logits: Tensor,
    labels: Tensor,
    kind: str = "kl",
    temperature: float = 1.0,
) -> Tensor:
    """Compute each selected token's divergence of a view from the anchor.

    With ``r = log p_anchor(label) - log p_view(label)``: ``k1 = r``, ``k2 = r^2 / 2``,
    ``k3 = exp(-r) - 1 + r`` (r held above -20, so that exp cannot overflow); ``kl`` is
    KL(anchor || view) over the full vocabulary. Gradient flows to both logits; detach
    one to keep it from there.

    Parameters
    ----------
    anchor_logits
        ``[N, V]``, any float dtype, given the original image.
    view_logits
        ``[N, V]``, any float dtype, given the view.
    labels
        ``[N]`` ints in ``[0, V)``, the sampled tokens; ``kl`` ignores them.
    kind
        ``kl``, ``k1``, ``k2`` or ``k3``.
    temperature
        What logits are divided by, > 0.

    Returns
    -------
    Tensor
        ``[N]`` fp32, nats (``k2``: nats squared); ``kl``, ``k2``, ``k3`` are >= 0.

    Raises
    ------
    ValueError
        An unknown kind, shapes that do not agree, temperature <= 0.
    """
    check_shapes(
        "take all at the same selected positions",
        anchor_logits=(anchor_logits, "N V"),
        view_logits=(view_logits, "N V"),
        labels=(labels, "N"),
    )
    check_argument("kind", kind, Choice(KINDS), "set cpl.divergence to one of them")
    return _Divergence.apply(
        anchor_logits, view_logits, labels.long(), kind, temperature
    )
