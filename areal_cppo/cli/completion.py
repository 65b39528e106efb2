"""`areal-cppo completion`: a shell's completion of commands, options and keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from areal_cppo.cli.common import prepare

_SHELLS = ("bash", "zsh", "fish", "tcsh")
_FOLDERS = ("DIR", "RUN")
_FILES = ("FILE", "IMAGE")


def add_completion(commands: Any) -> None:
    """Add `completion` to the parser's commands."""
    command = commands.add_parser(
        "completion",
        help="a shell's completion of commands, options, files and keys",
        description="Prints a script for the shell; docs/commands.md says where to.",
    )
    command.add_argument("shell", choices=_SHELLS)
    command.set_defaults(call=completion)


def completion(args: argparse.Namespace) -> int:
    """Print the script, of the whole parser; the exit status."""
    prepare()
    import shtab

    from areal_cppo.bench.quiet import quiet

    with quiet():
        from areal_cppo.config.reference import find

        keys = " ".join(f"{key.name}=" for key in find("") if key.type != "block")
    for action in _actions(args.whole):
        metavars = action.metavar if isinstance(action.metavar, tuple) else ()
        metavar = metavars[0] if metavars else action.metavar
        if action.dest == "overrides":
            action.complete = shtab.cmd(f"echo {keys}")
        elif metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif metavar in _FILES:
            action.complete = shtab.FILE
    print(shtab.complete(args.whole, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of a parser and of its commands, at any depth."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):  # of commands: their parsers by name
            for command in action.choices.values():
                yield from _actions(command)
