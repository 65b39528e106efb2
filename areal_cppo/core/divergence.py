"""How far a view's token distribution is from the anchor's.

arXiv 2601.00501 speaks of a divergence between token distributions: ``kl`` is that.
Its published code estimates it from the sampled token: ``k3`` in verl, ``k1`` in the
AReaL fork, where the anchor cancels out of the difference of two divergences. The
estimators are those of http://joschu.net/blog/kl-approx.html.

Letters: ``N`` selected tokens, ``V`` vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Stands for log 0, the log-probability of a word whose logit is -inf. Far below any of
# finite half-precision logits, and its square is still finite in fp32.
_MIN_LOG_PROB = -1e9
# exp() cannot overflow: exp(20) is 5e8, whose square summed over a million tokens (a
# gradient norm) is still finite in fp32. Beyond it the gradient is 0.
_MAX_LOG_RATIO = 20.0
_KL_CHUNK = 256  # rows in fp32 at a time: 160 MB each with a vocabulary of 150k


def log_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute log-probabilities in fp32, finite whatever the logits.

    Args:
        logits: ``[..., V]``, any float dtype; -inf marks a word that cannot occur.
        temperature: what logits are divided by, > 0.

    Returns:
        ``[..., V]`` fp32, nats, in ``[-1e9, 0]``.

    Raises:
        ValueError: the temperature is not > 0.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature: expected a number > 0, found {temperature}; "
            "pass the temperature that the tokens were sampled with"
        )
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    return log_p.clamp(min=_MIN_LOG_PROB)


class _FullKL(torch.autograd.Function):
    """KL(anchor || view) per row, with its closed-form gradient.

    With p, q the two distributions and d = log p - log q: dKL/d(anchor logit) is
    p (d - KL) / temperature, dKL/d(view logit) is (q - p) / temperature. Both are
    exactly 0 where the logits are equal, which automatic differentiation misses by
    rounding. Only the inputs are kept for the backward pass and only a chunk of rows
    is in fp32 at a time; automatic differentiation would keep about five [N, V] fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor_logits: Tensor, view_logits: Tensor, temperature: float
    ) -> Tensor:
        """Return ``[N]`` fp32 from two ``[N, V]``."""
        rows = []
        for anchor, view in zip(
            anchor_logits.split(_KL_CHUNK), view_logits.split(_KL_CHUNK)
        ):
            log_p, log_q = log_probs(anchor, temperature), log_probs(view, temperature)
            rows.append((log_p.exp() * (log_p - log_q)).sum(dim=-1))
        kl = torch.cat(rows).clamp(min=0)  # rounding may leave it just below
        ctx.save_for_backward(anchor_logits, view_logits, kl)
        ctx.temperature = temperature
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients, ``[N, V]`` in the logits' dtypes."""
        anchor_logits, view_logits, kl = ctx.saved_tensors
        to_anchor, to_view = (
            torch.empty_like(logits) if needed else None
            for logits, needed in zip(
                (anchor_logits, view_logits), ctx.needs_input_grad
            )
        )
        for start in range(0, len(kl), _KL_CHUNK):
            rows = slice(start, start + _KL_CHUNK)
            log_p = log_probs(anchor_logits[rows], ctx.temperature)
            log_q = log_probs(view_logits[rows], ctx.temperature)
            scale = (grad[rows] / ctx.temperature).unsqueeze(1)
            p = log_p.exp()
            if to_view is not None:
                to_view[rows] = (scale * (log_q.exp() - p)).to(to_view.dtype)
            if to_anchor is not None:
                excess = log_p - log_q - kl[rows].unsqueeze(1)
                to_anchor[rows] = (scale * p * excess).to(to_anchor.dtype)
        return to_anchor, to_view, None


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

    Args:
        anchor_logits: ``[N, V]``, any float dtype, given the original image.
        view_logits: ``[N, V]``, any float dtype, given the view.
        labels: ``[N]`` ints in ``[0, V)``, the sampled tokens; ``kl`` ignores them.
        kind: ``kl``, ``k1``, ``k2`` or ``k3``.
        temperature: what logits are divided by, > 0.

    Returns:
        ``[N]`` fp32, nats (``k2``: nats squared); ``kl``, ``k2``, ``k3`` are >= 0.

    Raises:
        ValueError: an unknown kind, shapes that do not agree, temperature <= 0.
    """
    _check_shapes(anchor_logits, view_logits, labels)
    if kind == "kl":
        return _FullKL.apply(anchor_logits, view_logits, temperature)
    chosen = labels.long().unsqueeze(1)
    anchor = log_probs(anchor_logits, temperature).gather(1, chosen).squeeze(1)
    view = log_probs(view_logits, temperature).gather(1, chosen).squeeze(1)
    ratio = anchor - view
    if kind == "k1":
        return ratio
    if kind == "k2":
        return ratio.square() / 2
    if kind == "k3":
        ratio = ratio.clamp(min=-_MAX_LOG_RATIO)
        return torch.expm1(-ratio) + ratio
    raise ValueError(
        f"kind: expected one of kl, k1, k2, k3, found {kind!r}; "
        "set cpl.divergence to one of them"
    )


def _check_shapes(anchor_logits: Tensor, view_logits: Tensor, labels: Tensor) -> None:
    """Refuse logits and labels that do not belong together."""
    if anchor_logits.dim() != 2 or anchor_logits.shape != view_logits.shape:
        raise ValueError(
            "view_logits: expected the shape [N, V] of anchor_logits, found "
            f"{list(view_logits.shape)} beside {list(anchor_logits.shape)}; "
            "take both at the same selected positions"
        )
    if labels.shape != anchor_logits.shape[:1]:
        raise ValueError(
            f"labels: expected shape {list(anchor_logits.shape[:1])}, found "
            f"{list(labels.shape)}; pass one sampled token a selected position"
        )
