"""What the commands of `areal-cppo bench` have in common."""

from __future__ import annotations

import sys
from pathlib import Path

from areal_cppo.errors import UserError


def target(path: str | None, option: str) -> Path | None:
    """The file to write, tried before minutes are spent; `option` is what names it."""
    if path is None:
        return None
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise UserError(
            f"{option}: expected a file that can be written, found {path}: "
            f"{error.strerror}; name another"
        ) from error
    return file


def json_target(path: str | None) -> Path | None:
    """The file of `--json`."""
    return target(path, "--json")


def picture_target(path: str | None) -> Path | None:
    """The file of `--plot`, of a kind that can be drawn."""
    if path is not None and Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise UserError(
            f"--plot: expected a name that ends in .png, .svg or .pdf, found {path}; "
            "change its ending"
        )
    return target(path, "--plot")


def numbers(text: str, option: str, least: int) -> list[int]:
    """Whole numbers >= `least`, separated by commas, each once."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least or len(set(found)) < len(found):
        raise UserError(
            f"{option}: expected different integers >= {least} such as "
            f"{least},4,16, found {text!r}; correct it"
        )
    return found


def at_least(option: str, value: float | None, least: float) -> None:
    """A UserError if a number is given and too small."""
    if value is not None and value < least:
        raise UserError(f"{option}: expected a number >= {least}, found {value:g}")


def note(text: str) -> None:
    """Say something on the way."""
    print(text, file=sys.stderr, flush=True)
