"""How well scores find the tokens that read the picture, against the truth.

A score ranks tokens; the truth is the role `R`. Beside rankings (ROC-AUC, average
precision, the best precision at a recall of .7) stands the rule that CPPO uses: of each
response the top fraction of tokens with a positive score. And for the configured
selection itself, floor on the gain and controls included, precision and recall.

Letters as in `tokens.py`: `N` response tokens.
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

from areal_cppo.core import CPLConfig, select_perception_tokens
from areal_cppo.studies.task import PERCEPTION
from areal_cppo.studies.tokens import Measures, Responses

RECALL = 0.7  # at which a score's best precision is told

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
