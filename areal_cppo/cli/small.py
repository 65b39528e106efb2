"""The commands that are one call: `serve` and `tiny-model`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from areal_cppo.cli.common import check_unused, prepare
from areal_cppo.config import TASK_NAMES

_MINUTES = "one to three"
TEXT = "text"  # no task to train on: what a model for other data starts from


def add_serve(commands: Any) -> None:
    """Add `serve` to the parser's commands."""
    command = commands.add_parser("serve", help="start a generation server alone")
    command.add_argument("--model", required=True, metavar="DIR")
    command.add_argument("--port", type=int, required=True)
    command.set_defaults(call=_serve)


def add_tiny_model(commands: Any) -> None:
    """Add `tiny-model` to the parser's commands."""
    command = commands.add_parser(
        "tiny-model", help="make the tiny model that a synthetic task starts from"
    )
    command.add_argument(
        "--task",
        choices=(*TASK_NAMES, TEXT),
        default=TASK_NAMES[0],
        help=f"default: {TASK_NAMES[0]}; {TEXT}: for data of your own, in any words",
    )
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


def _tiny_model(args: argparse.Namespace) -> int:
    check_unused(Path(args.out))
    prepare()
    from transformers.utils.logging import disable_progress_bar

    from areal_cppo.tasks import text_lesson
    from areal_cppo.tasks.problems import reading_task
    from areal_cppo.tasks.reading_lesson import ReadingLesson
    from areal_cppo.tasks.warmup import make_model

    if args.task == TEXT:
        lesson, target = text_lesson.TextLesson(), text_lesson.TARGET_ACCURACY
    else:
        lesson = ReadingLesson(reading_task(args.task))
        target = lesson.target_accuracy
    print(f"teaching a tiny model: {_MINUTES} minutes on an idle core", flush=True)
    disable_progress_bar()
    make_model(lesson, args.out, args.seed, target)
    print(f"wrote {args.out}")
    return 0
