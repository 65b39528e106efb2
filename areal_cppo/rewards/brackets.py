"""The outside of an answer's brackets: where its commas and relations are."""

from __future__ import annotations

import re
from collections.abc import Iterator

_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?")
_RELATION = re.compile(
    r"\\approx|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|\\in(?![a-z])|[=<>]"
)
_OPEN, _CLOSE = "([{", ")]}"


def without_thousands(text: str) -> str:
    """`32,349` is a number, outside of brackets; `5, 100` and `(5,100)` are lists."""
    parts = []
    for piece, inside in _pieces(text):
        found = (
            piece if inside else _GROUPED.sub(lambda m: m[0].replace(",", ""), piece)
        )
        parts.append(found)
    return "".join(parts)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text outside of brackets, and that in them."""
    depth = start = 0
    for at, character in enumerate(text):
        if character in _OPEN or character in _CLOSE:
            inside = depth > 0
            step = 1 if character in _OPEN else -1
            if depth == 0 or depth + step == 0:
                yield text[start:at], inside
                start = at
            depth = max(0, depth + step)
    yield text[start:], depth > 0


def relations(text: str) -> Iterator[re.Match]:
    """Relations outside of brackets."""
    depth = at = 0
    while at < len(text):
        match = _RELATION.match(text, at) if depth == 0 else None
        if match is not None:
            yield match
            at = match.end()
            continue
        depth += (text[at] in _OPEN) - (text[at] in _CLOSE)
        at += 1


def split(text: str, separators: str) -> list[str]:
    """At the commas and the like, or at the command, outside of brackets."""
    parts, depth, start, at = [], 0, 0, 0
    command = separators if separators.startswith("\\") else ""
    while at < len(text):
        depth += (text[at] in _OPEN) - (text[at] in _CLOSE)
        if text.startswith(r"\langle", at):
            depth += 1
        elif text.startswith(r"\rangle", at):
            depth -= 1
        length = 0
        if command:
            length = len(command) if text.startswith(command, at) else 0
        elif text[at] in separators:
            length = 1
        if length and depth <= 0:
            parts.append(text[start:at])
            start = at + length
        at += length or 1
    return [*parts, text[start:]]


def is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth < 0:
            return False
    return depth == 0
