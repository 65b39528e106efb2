"""What the commands of `areal-cppo bench` have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from areal_cppo.cli.common import output_file
from areal_cppo.errors import UserError

PICTURES = (".png", ".svg", ".pdf")
# Name, type, what stands for the value in the help (None: the name), and the help.
Option = tuple[str, type, str | None, str | None]


def add_options(
    command: argparse.ArgumentParser,
    options: Iterable[Option],
    required: Collection[str] = (),
) -> None:
    """Add options that take a value; those in `required` must be given."""
    for name, kind, metavar, help in options:
        command.add_argument(
            f"--{name}",
            type=kind,
            metavar=metavar,
            help=help,
            required=name in required,
        )


def json_file(args: argparse.Namespace) -> Path | None:
    """The file of `--json`, if given."""
    return output_file(args.json, "--json") if args.json else None


def picture_file(args: argparse.Namespace) -> Path | None:
    """The file of `--plot`, if given."""
    return output_file(args.plot, "--plot", PICTURES) if args.plot else None


def write_numbers(file: Path | None, document: dict[str, Any]) -> None:
    """Write what `--json` asks for, if it does, and say where it is."""
    if file is not None:
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"numbers: {file}")


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


def check_peak(tflops: float | None) -> None:
    """A UserError if `--peak-tflops` is given and not above 0."""
    if tflops is not None and tflops <= 0:
        raise UserError(
            f"--peak-tflops: expected a number > 0, found {tflops:g}; an H100's is 989 "
            "in bf16"
        )
