"""The commands that are one call: `serve`, `report` and `tiny-model`."""

from __future__ import annotations

import argparse
from typing import Any

from areal_cppo.cli.common import prepare
from areal_cppo.config import TASK_NAMES
from areal_cppo.errors import UserError


def add_serve(commands: Any) -> None:
    """Add `serve` to the parser's commands."""
    command = commands.add_parser("serve", help="start a generation server alone")
    command.add_argument("--model", required=True, metavar="DIR")
    command.add_argument("--port", type=int, required=True)
    command.set_defaults(call=_serve)


def add_report(commands: Any) -> None:
    """Add `report` to the parser's commands."""
    command = commands.add_parser("report", help="write report.html of a run's folder")
    command.add_argument("run", metavar="DIR")
    command.set_defaults(call=_report)


def add_tiny_model(commands: Any) -> None:
    """Add `tiny-model` to the parser's commands."""
    command = commands.add_parser(
        "tiny-model", help="make the tiny model that a synthetic task starts from"
    )
    command.add_argument("--task", choices=TASK_NAMES, default=TASK_NAMES[0])
    command.add_argument("-o", "--out", required=True, metavar="DIR")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(call=_tiny_model)


def _serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; the exit status."""
    from areal_cppo.config.keys import check_model
    from areal_cppo.serving.server import check_port, serve

    check_model(args.model)
    check_port("127.0.0.1", args.port)
    prepare()
    return serve(args.model, args.port)


def _report(args: argparse.Namespace) -> int:
    """Write `summary.json` and `report.html` from what the folder holds."""
    from areal_cppo.run.finish import finish_run

    try:
        print(finish_run(args.run))
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


def _tiny_model(args: argparse.Namespace) -> int:
    prepare()
    from areal_cppo.tasks.problems import reading_task
    from areal_cppo.tasks.warmup import make_model

    make_model(reading_task(args.task), args.out, args.seed)
    return 0
