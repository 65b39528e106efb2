"""`areal-cppo bench hand-over`: a batch from rollout to the trainer's update."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from areal_cppo.cli.bench_options import add_options, json_file, write_numbers
from areal_cppo.cli.common import at_least, note, prepare
from areal_cppo.errors import UserError

_TOKEN = 28  # side of the square of pixels that is a token of Qwen2.5-VL
_OPTIONS = (
    (
        *("images", str, "HxW,HxW,..."),
        "sizes of images, pixels (448x448,896x1120)",
    ),
    ("responses", int, "N", "of a step (512)"),
    ("group", int, "N", "responses a prompt (8)"),
    ("seed", int, None, "of pixels and tokens (1)"),
    ("json", str, "FILE", "write the numbers there"),
)


def add_hand_over(kinds: Any) -> None:
    """Add `hand-over` to the parser of `bench`."""
    command = kinds.add_parser(
        "hand-over",
        help="bytes and seconds from rollout to the trainer, AReaL's way and ours",
    )
    add_options(command, _OPTIONS)
    usual = {"images": "448x448,896x1120", "responses": 512, "group": 8, "seed": 1}
    command.set_defaults(call=_hand_over, **usual)


def _hand_over(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    images = _sizes(args.images)
    at_least("--group", args.group, 1)
    if args.responses < 1 or args.responses % args.group:
        raise UserError(
            f"--responses: expected a multiple of --group {args.group}, found "
            f"{args.responses}; correct it"
        )
    target = json_file(args)
    prepare()
    from areal_cppo.bench.quiet import quiet

    with quiet():
        from areal_cppo.bench import hand_over, machine

        amount = hand_over.Amount(args.responses, args.group, seed=args.seed)
        document = machine.describe_run() | {
            "kind": "hand-over",
            "complete": False,
            "amount": asdict(amount),
        }
        results: list = []
        try:
            hand_over.measure(images, amount, note, results)
            document["complete"] = True
        finally:
            described = hand_over.describe(results, amount)
            print(hand_over.results_table(described))
            write_numbers(target, document | {"results": described})
    return 0


def _sizes(text: str) -> list[tuple[int, int]]:
    """Heights and widths, multiples of a token's side."""
    found = []
    for word in text.split(","):
        height, _, width = word.partition("x")
        sides = [int(side) if side.isdecimal() else 0 for side in (height, width)]
        if not all(sides) or any(side % _TOKEN for side in sides):
            raise UserError(
                "--images: expected sizes such as 448x448, sides multiples of "
                f"{_TOKEN}, found {word!r}; correct it"
            )
        found.append((sides[0], sides[1]))
    return found
