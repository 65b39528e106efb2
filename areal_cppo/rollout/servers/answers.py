"""Whether what a server answered can be what it was asked for.

SGLang's format: `meta_info.output_token_logprobs` is a list of [log-prob in nats, token
id, text], `meta_info.finish_reason.type` says why generation ended.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

FINISH_REASONS = ("stop", "length", "tool_calls", "abort")

# A log-prob of a near-certain token may come out a little above 0 in bfloat16.
LARGEST_LOGPROB = 1e-2


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def nonsense(answer: Any, vocabulary: int | None, most: int) -> str | None:
    """What is wrong with an answer; None: nothing is.

    Parameters
    ----------
    answer
        Parsed JSON.
    vocabulary
        Token ids are smaller; None: not known.
    most
        Tokens that were asked for.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("meta_info"), dict):
        return "no meta_info in it"
    meta = answer["meta_info"]
    reason = meta.get("finish_reason")
    if not isinstance(reason, dict) or reason.get("type") not in FINISH_REASONS:
        return "an unknown finish reason"
    tokens = meta.get("output_token_logprobs")
    if tokens is None and reason["type"] == "abort":
        return None  # aborted before it began
    if not isinstance(tokens, list):
        return "no list of tokens in it"
    if len(tokens) > most:
        return f"{len(tokens)} tokens, of at most {most}"
    if not tokens and reason["type"] in ("length", "tool_calls"):
        return f"no tokens, but finish reason {reason['type']}"
    ids = answer.get("output_ids")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(tokens)):
        return "unequal lists of tokens and log-probs"
    for place, entry in enumerate(tokens):
        if not isinstance(entry, list) or len(entry) < 2:
            return f"token {place} has no log-prob"
        logprob, token = entry[0], entry[1]
        if not _integer(token) or token < 0 or (vocabulary and token >= vocabulary):
            return f"token {place} is outside the vocabulary"
        if isinstance(logprob, bool) or not isinstance(logprob, int | float):
            return f"token {place} has no log-prob"
        if not math.isfinite(logprob) or logprob > LARGEST_LOGPROB:
            return f"token {place} has an impossible log-prob"
        if ids is not None and ids[place] != token:
            return "unequal lists of tokens and log-probs"
    return None


def vocabulary_of(model: str | Path) -> int | None:
    """Rows of a model folder's embedding; None where its config.json doesn't say."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    size = config.get("vocab_size")
    if size is None:
        size = (config.get("text_config") or {}).get("vocab_size")
    return size if _integer(size) else None
