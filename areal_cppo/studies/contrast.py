"""What the contrast asks of the tokens that read: which of them, and to what end.

With `m = (D+ - D-) / tau` the loss of a token is `softplus(m)`, and `sigmoid(m)` is the
share of the full gradient that it gets (its weight). Where the positive view was not
readable `D+` is large, and so is the weight: those tokens are pulled towards a view
that misreads. `push` says in which direction the sampled token goes: of a token of a
correct response it should rise.

Letters: `N` response tokens, `V` vocabulary.
"""

from __future__ import annotations

import torch

from areal_cppo.core import CPLConfig, contrastive_perception_loss, token_divergence

MEASURES = (
    "contrast_weight",
    "contrast_misread",
    "contrast_push",
    "positive_misreads",
    "negative_reads",
)


def contrast(
    cpl: CPLConfig,
    labels: torch.Tensor,
    anchor: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    temperature: float = 1.0,
) -> dict[str, float | None]:
    """Measure the contrast at tokens whose label is known to be read correctly.

    Parameters
    ----------
    cpl
        Divergence and `tau`.
    labels
        int64 `[N]`, the sampled tokens.
    anchor, positive, negative
        float `[N, V]`, logits of the three passes.
    temperature
        What logits are divided by.

    Returns
    -------
    dict
        Means over tokens: `contrast_weight`, in [0, 1]; `contrast_push`, minus the
        derivative of the loss in the sampled token's logit of the anchor, the others
        held (`grad: [anchor]`). Shares: `positive_misreads` and `negative_reads`, of
        tokens for which a view does not, or does, rank the sampled token first;
        `contrast_misread`, of the weight at tokens whose positive view misreads. None
        where there is no token, or no weight.
    """
    if not len(labels):
        return dict.fromkeys(MEASURES)
    anchor = anchor.detach().float().requires_grad_()
    to_positive, to_negative = (
        token_divergence(anchor, view.float(), labels, cpl.divergence, temperature)
        for view in (positive.detach(), negative.detach())
    )
    loss = contrastive_perception_loss(to_positive, to_negative, cpl.tau)
    (slope,) = torch.autograd.grad(loss.sum(), anchor)
    push = -slope.gather(1, labels[:, None]).squeeze(1)
    weight = torch.sigmoid((to_positive - to_negative).detach() / cpl.tau)
    misread = positive.argmax(-1) != labels
    total = float(weight.sum())
    return {
        "contrast_weight": float(weight.mean()),
        "contrast_misread": float(weight[misread].sum()) / total if total else None,
        "contrast_push": float(push.mean()),
        "positive_misreads": float(misread.float().mean()),
        "negative_reads": float((negative.argmax(-1) == labels).float().mean()),
    }
