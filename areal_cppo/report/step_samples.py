"""Responses that a run has kept to be read: `samples/step-*.json`, and their pictures.

A file has `step` and lists of `responses` that were trained on and of those `refused`:

| key | |
| --- | --- |
| `question`, `answer`, `query_id` | the problem: its text (for want of that the prompt's), the true answer, its name |
| `response`, `response_tokens` | its text and length; of a refused one perhaps none |
| `pictures` | by kind (anchor, positive, negative) a WebP file beside this one; several pictures stand side by side |
| `images` | how many the problem has |
| `parts` | of the reward, by name |
| `reward`, `advantage` | the latter is the mean over its tokens |
| `versions`, `staleness` | runs of `[policy version, tokens]`; how many versions old the oldest is |
| `tokens` | columns, one a token: `text`, `gain`, `selected`, `anchor_entropy`, `negative_entropy`, `negative_divergence`, as the step computed them; null where a token was not gated, and no columns where nothing was |
| `reason` | of a refused one, why (`areal_cppo.rollout.refusals`) |
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from areal_cppo.report.page import number
from areal_cppo.report.samples import (
    IMAGE_KINDS,
    SampleView,
    StoredPicture,
    TokenView,
)

Record = Mapping[str, Any]

MOST_TOKENS = 500  # of a response that are shown one by one; the rest as text


@dataclass(frozen=True)
class StepSamples:
    """What was kept of one step."""

    step: int
    responses: list[SampleView]
    refused: list[SampleView]


def first_middle_last(files: Sequence[Path]) -> list[Path]:
    """Of steps' files, in any order, that of the first, a middle one and the last."""
    ordered = sorted(files, key=lambda file: (len(file.name), file.name))
    at = {0, len(ordered) // 2, len(ordered) - 1} if ordered else ()
    return [ordered[i] for i in sorted(at)]


def read_step_samples(path: Path) -> StepSamples:
    """Read one file.

    Raises
    ------
    ValueError
        It is not as the module's docstring says, in one line.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        views = {
            kind: [_view(path.parent, record) for record in whole[kind]]
            for kind in ("responses", "refused")
        }
        return StepSamples(int(whole["step"]), **views)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise ValueError(
            f"expected samples of a step in {path.name}, found a mismatch: {error}"
        ) from error


def _view(folder: Path, record: Record) -> SampleView:
    pictures = {
        kind: _picture(folder, record["pictures"].get(kind)) for kind in IMAGE_KINDS
    }
    tokens, rest = _tokens(record.get("tokens") or {})
    refused = "reason" in record
    text = "" if tokens else record["response"]
    notes = []
    if rest:
        notes.append(f"The numbers of {rest} more tokens are in the run's folder.")
        text = "".join(record["tokens"]["text"][MOST_TOKENS:])
    images = record["images"]
    return SampleView(
        title=f"Problem {record['query_id']}" if record["query_id"] else "Problem",
        prompt=f"{record['question']}\n(answer: {record['answer']})"
        + (f"\n({images} pictures)" if images > 1 else ""),
        tokens=tokens,
        correct=None,
        answer="",
        reward=None,
        policy=None,
        notes=tuple(notes),
        text=text,
        heading=f"Refused: {record['reason']}" if refused else "Response",
        facts=() if refused else tuple(facts(record).items()),
        **pictures,
    )


def _picture(folder: Path, name: str | None) -> StoredPicture | None:
    """The picture of that name beside the file; never one from elsewhere."""
    path = folder / Path(name).name if name else None
    return StoredPicture.read(path) if path and path.is_file() else None


def _tokens(columns: Mapping[str, list]) -> tuple[list[TokenView], int]:
    """The first tokens, and how many there are besides."""
    if not columns:
        return [], 0
    known = [name for name in columns if name in {f.name for f in fields(TokenView)}]
    rows = list(zip(*(columns[name] for name in known), strict=True))
    tokens = []
    for row in rows[:MOST_TOKENS]:
        values = dict(zip(known, row, strict=True))
        gated = values["gain"] is not None
        values["gain"] = values["gain"] or 0.0
        values["selected"] = bool(values["selected"])
        tokens.append(TokenView(**values, gated=gated))
    return tokens, len(rows) - len(tokens)


def facts(record: Record) -> dict[str, str]:
    """What is said of a response that was trained on, in words."""
    parts = ", ".join(f"{name} {number(v)}" for name, v in record["parts"].items())
    versions = [version for version, _ in record["versions"]]
    span = sorted({versions[0], versions[-1]}) if versions else []
    stale = record["staleness"]
    return {
        "reward": number(record["reward"]) + (f" ({parts})" if parts else ""),
        "advantage": number(record["advantage"]),
        "policy version": " to ".join(map(str, span))
        + (f" ({stale} old)" if stale else " (fresh)"),
        "length": f"{record['response_tokens']} tokens",
    }


def table(samples: Record) -> list[dict[str, str]]:
    """A row a response, refused ones last, for tables elsewhere; values are text."""
    rows = []
    for record in [*samples["responses"], *samples["refused"]]:
        tokens = record.get("tokens") or {"text": (), "selected": ()}
        chosen = [
            text
            for text, selected in zip(tokens["text"], tokens["selected"], strict=True)
            if selected
        ]
        known = {} if "reason" in record else facts(record)
        rows.append(
            {
                "problem": record["query_id"],
                "question": record["question"],
                "answer": record["answer"],
                "response": record["response"],
                **{
                    name: known.get(name, "")
                    for name in ("reward", "advantage", "policy version", "length")
                },
                "perception tokens": " ".join(chosen),
                "refused": record.get("reason", ""),
            }
        )
    return rows
