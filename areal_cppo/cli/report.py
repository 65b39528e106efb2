"""`report` and `card`: what a run's folder says, as pages and as a model card."""

from __future__ import annotations

import argparse
from typing import Any

from areal_cppo.errors import UserError


def add_report(commands: Any) -> None:
    """Add `report` to the parser's commands."""
    command = commands.add_parser(
        "report", help="write report.html of a run's folder, or compare runs"
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    command.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="of several runs: the page to write (default: compare.html)",
    )
    command.set_defaults(call=_report)


def add_card(commands: Any) -> None:
    """Add `card` to the parser's commands."""
    command = commands.add_parser(
        "card", help="write the model card (README.md) of a run's checkpoints"
    )
    command.add_argument("run", metavar="RUN", help="a run's folder")
    command.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="default: all that are in the run's checkpoints/",
    )
    command.add_argument(
        "--step", type=int, help="of the checkpoint, where its folder's name is no step"
    )
    command.add_argument(
        "--base-model",
        metavar="OWNER/NAME",
        help="on the hub; default: as the run's configuration names it",
    )
    command.set_defaults(call=_card)


def _report(args: argparse.Namespace) -> int:
    """One run: `summary.json` and `report.html`; several: a page of all of them."""
    try:
        if len(args.runs) > 1:
            from areal_cppo.report.compare import write_comparison

            print(write_comparison(args.runs, args.out or "compare.html"))
        elif args.out is not None:
            raise ValueError(
                "-o: expected two runs or more, found one, whose report is written "
                "into its folder; leave -o out"
            )
        else:
            from areal_cppo.run.finish import finish_run

            print(finish_run(args.runs[0]))
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


def _card(args: argparse.Namespace) -> int:
    """Write the cards and say where they are."""
    from areal_cppo.report.card import write_cards
    from areal_cppo.report.runs import load_run

    if args.step is not None and args.checkpoint is None:
        raise UserError(
            "--step: expected --checkpoint DIR beside it, found none; add it, or leave "
            "--step out"
        )
    try:
        run = load_run(args.run)
        cards = write_cards(run, args.checkpoint, args.step, args.base_model)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not cards:
        raise UserError(
            f"expected checkpoints/step-* in {args.run}, found none; name a checkpoint "
            "with --checkpoint DIR"
        )
    print(*cards, sep="\n")
    return 0
