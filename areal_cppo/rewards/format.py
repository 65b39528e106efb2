"""Does a response keep the format: thinking first, then one boxed answer?

All of it takes time in proportion to the response, whatever that says.
"""

from __future__ import annotations

import re

from areal_cppo.rewards.answers import final_answer

_OPEN, _CLOSE, _BOX = "<think>", "</think>", r"\boxed"
# Tokens that end a response. Found as runs, each once: a pattern that ends in `\Z`
# would be tried anew from every token of a run that leads nowhere.
_END = re.compile(r"(?:<\|[a-z_]+\|>|<eos>|</s>|\s)+")


def has_format(response: str, prompt: str = "") -> bool:
    """Whether a response is `<think>...</think>` and then one `\\boxed{...}`.

    Each of the three stands there exactly once, in this order. Nothing but white space
    comes before `<think>`; thought and box are not empty; words around the box are
    allowed, as the prompt may ask for them.

    Parameters
    ----------
    response
        Decoded, with or without the tokens at its end.
    prompt
        As the model sees it, the chat template around it. Where that ends with
        `<think>`, as some templates do, the response goes on from there.
    """
    return format_fault(response, prompt) is None


def format_fault(response: str, prompt: str = "") -> str | None:
    """What is wrong with a response's format (`has_format`), in words, or None."""
    text = without_end(response).strip()
    if prompt.rstrip().endswith(_OPEN):
        text = _OPEN + text
    for mark in (_OPEN, _CLOSE, _BOX):
        count = text.count(mark)
        if count != 1:
            return f"{mark} is there {count} times" if count else f"no {mark}"
    thought, _, rest = text.partition(_CLOSE)
    if not thought.startswith(_OPEN):
        return f"it doesn't begin with {_OPEN}"
    if not thought.removeprefix(_OPEN).strip():
        return "the thought is empty"
    if final_answer(rest) is None:
        inside = _BOX in thought
        return f"the box is before {_CLOSE}" if inside else "the box is empty or open"
    return None


def without_end(response: str) -> str:
    """A decoded response without the special tokens at its end (`<|im_end|>`).

    White space between and around these goes with them.
    """
    ends = [
        run.start() for run in _END.finditer(response) if run.end() == len(response)
    ]
    return response[: ends[0]] if ends else response
