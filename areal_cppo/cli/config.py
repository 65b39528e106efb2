"""`areal-cppo config`: what can be configured, key by key."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from areal_cppo.cli.common import prepare

if TYPE_CHECKING:
    from areal_cppo.config.reference import Key


def add_config(commands: Any) -> None:
    """Add `config` to the parser's commands."""
    command = commands.add_parser(
        "config",
        help="what can be configured: type, bounds, default and meaning of each key",
        description="Tells of a key, of a block, or of all keys that hold a word. "
        "Without KEY: of all.",
    )
    command.add_argument("key", nargs="?", default="", metavar="KEY")
    command.add_argument(
        "--markdown", action="store_true", help="as docs/configuration.md has it"
    )
    command.set_defaults(call=config)


def config(args: argparse.Namespace) -> int:
    """Print what is known; the exit status."""
    prepare()
    from areal_cppo.bench.quiet import quiet

    with quiet():
        from areal_cppo.config.reference import find

        found = find(args.key)
    print(_markdown(found) if args.markdown else _text(found))
    return 0


def _text(keys: Sequence[Key]) -> str:
    lines = []
    for key in keys:
        words = [key.type, key.bounds]
        words += [f"default {key.default}"] if key.default else []
        lines.append(f"{key.name}: {'; '.join(word for word in words if word)}")
        lines += [f"    {key.meaning}"] if key.meaning else []
    return "\n".join(lines)


def _markdown(keys: Sequence[Key]) -> str:
    """A table for each block at the top, AReaL's keys marked."""
    lines: list[str] = []
    top = None
    for key in keys:
        block = key.name.partition(".")[0] if "." in key.name else ""
        if key.type == "block" and not block:
            continue
        if block != top:
            title = f"`{block}`" if block else "At the top"
            lines += ["", f"## {title}", "", "| key | type | default | meaning |"]
            lines += ["| --- | --- | --- | --- |"]
            top = block
        kind = key.type + (f", {key.bounds}" if key.bounds else "")
        mark = "" if key.of == "areal_cppo" else " *"
        cells = (f"`{key.name}`{mark}", kind, _code(key.default), key.meaning)
        lines.append(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        )
    return "\n".join(lines).strip()


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
