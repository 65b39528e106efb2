"""Does a response keep the format: thinking first, then one boxed answer?"""

from __future__ import annotations

import re

from areal_cppo.rewards.answers import final_answer

_END = re.compile(r"(?:<\|[a-z_]+\|>|<eos>|</s>)+\s*\Z")  # tokens that end a response


def has_format(response: str) -> bool:
    """Whether a response is `<think>...</think>` and then one `\\boxed{...}`.

    Each of the three stands there exactly once, in this order. Nothing but white space
    comes before `<think>`; thought and box are not empty; words around the box are
    allowed, as the prompt may ask for them.
    """
    text = without_end(response).strip()
    if any(text.count(mark) != 1 for mark in ("<think>", "</think>", r"\boxed")):
        return False
    thought, _, rest = text.partition("</think>")
    return (
        thought.startswith("<think>")
        and bool(thought.removeprefix("<think>").strip())
        and final_answer(rest) is not None
    )


def without_end(response: str) -> str:
    """A decoded response without the special tokens at its end (`<|im_end|>`)."""
    return _END.sub("", response)
