"""What scores, selection and contrast make of tokens whose role is known.

A score ranks tokens; the truth is the role `R`. Beside rankings (ROC-AUC, average
precision, the best precision at a recall of .7) stands the rule that CPPO uses: of each
response the top fraction of tokens with a positive score. And for the configured
selection itself, floor on the gain and controls included, precision and recall.

Of the contrast: with `m = (D+ - D-) / tau` the loss of a token is `softplus(m)`, and
`sigmoid(m)` is the share of the full gradient that it gets (its weight). Where the
positive view was not readable `D+` is large, and so is the weight: those tokens are
pulled towards a view that misreads. `push` says in which direction the sampled token
goes: of a token of a correct response it should rise.

Letters as in `tokens.py`: `N` response tokens, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)

from areal_cppo.core import (
    CPLConfig,
    contrastive_perception_loss,
    select_perception_tokens,
    token_divergence,
)
from areal_cppo.studies.tokens import PERCEPTION, Measures, Responses

RECALL = 0.7  # at which a score's best precision is told

CONTRAST = (  # what `contrast` measures
    "contrast_weight",
    "contrast_misread",
    "contrast_push",
    "positive_misreads",
    "negative_reads",
)

Score = Callable[[Measures], np.ndarray]


# Published: the rise as a share of the negative view's entropy. Over the anchor's, or
# over the sum of both, it ranks alike, as all of them grow with the quotient of the two
# entropies; and the rise in units of log V ranks as the rise.
SCORES: dict[str, Score] = {
    "entropy_gain": lambda m: m.gain,
    "entropy_rise": lambda m: m.negative_entropy - m.anchor_entropy,
    "divergence": lambda m: m.negative_divergence,
    "divergence_margin": lambda m: m.negative_divergence - m.positive_divergence,
    "logprob_drop": lambda m: m.drop,
    "anchor_entropy": lambda m: m.anchor_entropy,
    "negative_entropy": lambda m: m.negative_entropy,
}


def ranking(score: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """How well a score ranks.

    Parameters
    ----------
    score
        float `[N]`.
    truth
        bool `[N]`.

    Returns
    -------
    dict
        `auc`, `average_precision` (the mean precision at the true tokens, as
        scikit-learn has it) and `precision_at_recall` (the best precision of a
        threshold whose recall is at least `RECALL`); all None where all tokens are of
        one kind.
    """
    if truth.all() or not truth.any():
        return dict.fromkeys(("auc", "average_precision", "precision_at_recall"))
    precision, recall, _ = precision_recall_curve(truth, score)
    return {
        "auc": float(roc_auc_score(truth, score)),
        "average_precision": float(average_precision_score(truth, score)),
        "precision_at_recall": float(precision[recall >= RECALL].max()),
    }


def found(
    selected: np.ndarray, truth: np.ndarray, n_responses: int
) -> dict[str, float | None]:
    """Precision, recall and tokens per response of a selection; bool `[N]` each.

    Precision is None where nothing is selected, recall where there is no true token.
    """
    hits = int((selected & truth).sum())
    n_selected, n_true = int(selected.sum()), int(truth.sum())
    return {
        "precision": hits / n_selected if n_selected else None,
        "recall": hits / n_true if n_true else None,
        "tokens": n_selected / n_responses,
    }


def by_rule(score: np.ndarray, sequences: torch.Tensor, cpl: CPLConfig) -> np.ndarray:
    """The top fraction of each response's tokens with a positive score: bool `[N]`."""
    values = torch.from_numpy(np.ascontiguousarray(score))
    eligible = torch.ones(len(values), dtype=torch.bool)
    return select_perception_tokens(
        values, eligible, sequences, cpl.top_fraction, cpl.quota
    ).numpy()


def records(
    responses: Responses, measures: Measures, cpl: CPLConfig
) -> list[dict[str, Any]]:
    """A record per score, and one of the selection as configured (`selection`)."""
    truth = responses.roles == PERCEPTION
    n = len(responses.ids)
    shared = {"base_rate": float(truth.mean()), "n_tokens": len(truth), "n": n}
    lines = [
        {"score": "selection", **found(measures.selected, truth, n), **shared},
    ]
    for name, score in SCORES.items():
        values = score(measures)
        rule = by_rule(values, responses.sequences, cpl)
        lines.append(
            {
                "score": name,
                **ranking(values, truth),
                **found(rule, truth, n),
                **shared,
            }
        )
    return lines


def role_records(responses: Responses, measures: Measures) -> list[dict[str, Any]]:
    """Means over the tokens of each role that there are."""
    lines = []
    for role in sorted(set(responses.roles.tolist())):
        at = responses.roles == role
        lines.append(
            {
                "role": role,
                "n_tokens": int(at.sum()),
                "anchor_entropy": float(measures.anchor_entropy[at].mean()),
                "negative_entropy": float(measures.negative_entropy[at].mean()),
                "gain": float(measures.gain[at].mean()),
                "negative_divergence": float(measures.negative_divergence[at].mean()),
                "positive_divergence": float(measures.positive_divergence[at].mean()),
                "selected": float(measures.selected[at].mean()),
            }
        )
    return lines


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
        return dict.fromkeys(CONTRAST)
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
