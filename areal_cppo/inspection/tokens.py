"""What a response's tokens owe to the image: numbers of each, by training's rules.

Letters: `T` response tokens, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from areal_cppo.core import (
    CPLConfig,
    entropy_gain,
    perception_tokens,
    selection_seeds,
    token_divergence,
    token_entropy,
)
from areal_cppo.core.precision import log_probs
from areal_cppo.errors import RunError
from areal_cppo.inspection.views import VIEW_KINDS
from areal_cppo.report.samples import TokenView

_BYTES_OF_A_CHARACTER = 4  # at most, in UTF-8
_GOES_ON = "\u2026"  # of a character that several tokens spell
_CHUNK = 128  # rows in fp32 at a time: 80 MB with a vocabulary of 150k


@dataclass(frozen=True)
class TokenNumbers:
    """What is known of each token of one response: tensors `[T]`.

    Attributes
    ----------
    gain
        fp32 in [0, 1], the published entropy gain.
    selected
        bool, the perception tokens.
    entropy, probability
        By image (anchor, positive, negative): fp32, the entropy of the prediction in
        nats, and the probability of the token that stands there.
    divergence
        By view (positive, negative): fp32, KL(anchor || view) over the vocabulary,
        nats.
    """

    gain: torch.Tensor
    selected: torch.Tensor
    entropy: dict[str, torch.Tensor]
    probability: dict[str, torch.Tensor]
    divergence: dict[str, torch.Tensor]


@torch.no_grad()
def judge(
    logits: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    config: CPLConfig,
    temperature: float,
    seed: int = 0,
) -> TokenNumbers:
    """Score and select one response's tokens.

    Selected is as in training, but for the gate: there is no advantage here, and every
    token counts.

    Parameters
    ----------
    logits
        By image (anchor, positive, negative): `[T, V]`, any float dtype; row `t`
        predicts token `t`.
    labels
        int64 `[T]`, the response.
    config
        `actor.cpl`.
    temperature
        What logits are divided by, > 0: that the policy samples with.
    seed
        Of the control `selection: random`.

    Raises
    ------
    RunError
        A number is not finite: the model's weights or its dtype are at fault.
    """
    entropy = {kind: token_entropy(rows, temperature) for kind, rows in logits.items()}
    pair = entropy["anchor"], entropy["negative"]
    one_response = torch.zeros_like(labels)
    numbers = TokenNumbers(
        gain=entropy_gain(*pair),
        selected=perception_tokens(
            config,
            *pair,
            torch.ones_like(labels, dtype=torch.bool),
            one_response,
            vocabulary=logits["anchor"].shape[-1],
            seeds=selection_seeds(seed, 0, labels, one_response),
        ),
        entropy=entropy,
        probability={
            kind: _probability(rows, labels, temperature)
            for kind, rows in logits.items()
        },
        divergence={
            kind: token_divergence(
                logits["anchor"], logits[kind], labels, "kl", temperature
            )
            for kind in VIEW_KINDS
        },
    )
    for kind, values in entropy.items():
        finite = torch.isfinite(values)
        if not finite.all():
            raise RunError(
                f"the model predicts not-a-number at {int((~finite).sum())} of "
                f"{len(finite)} tokens given the {kind} image; look at its weights, or "
                "try --device cpu"
            )
    return numbers


def token_texts(tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token's text. Where several spell one character, the first has it."""
    pieces: list[str] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = tokenizer.decode(waiting)
        if text.endswith("\ufffd") and len(waiting) < _BYTES_OF_A_CHARACTER:
            continue
        pieces += [text] + [_GOES_ON] * (len(waiting) - 1)
        waiting = []
    return pieces + [tokenizer.decode([token]) for token in waiting]


def token_views(
    pieces: Sequence[str], numbers: TokenNumbers, roles: Sequence[str] | None = None
) -> list[TokenView]:
    """The tokens for the report.

    Parameters
    ----------
    pieces
        Each token's text.
    numbers
        As many tokens'.
    roles
        What each token does, where that is known (`areal_cppo.tasks.responses`).
    """
    columns = {"gain": numbers.gain, "selected": numbers.selected}
    for name in ("entropy", "probability", "divergence"):
        for kind, values in getattr(numbers, name).items():
            columns[f"{kind}_{name}"] = values
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [
        TokenView(text=text, role=role, **dict(zip(columns, row, strict=True)))
        for text, role, row in zip(
            pieces, roles or [""] * len(pieces), rows, strict=True
        )
    ]


def _probability(
    logits: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Of the token that stands there: fp32 `[T]`."""
    parts = [
        log_probs(rows, temperature).gather(1, label.unsqueeze(1)).squeeze(1).exp()
        for rows, label in zip(logits.split(_CHUNK), labels.split(_CHUNK), strict=True)
    ]
    return torch.cat(parts)
