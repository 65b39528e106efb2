"""`areal-cppo`: parses the command line and turns errors into exit statuses.

0 success; 2 a user's mistake, told in one line; 1 a failure at run time; 130 Ctrl-C;
143 SIGTERM.

Each command adds its own parser, with the function that it calls. What takes seconds to
import is imported by that function, after it has looked for mistakes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from areal_cppo import __version__
from areal_cppo.cli.bench import add_bench
from areal_cppo.cli.common import Parser
from areal_cppo.cli.completion import add_completion
from areal_cppo.cli.config import add_config
from areal_cppo.cli.demo import add_demo
from areal_cppo.cli.doctor import add_doctor
from areal_cppo.cli.eval import add_eval
from areal_cppo.cli.inspect import add_inspect
from areal_cppo.cli.plan import add_plan
from areal_cppo.cli.report import add_card, add_report
from areal_cppo.cli.reward import add_reward
from areal_cppo.cli.slurm import add_slurm
from areal_cppo.cli.small import add_serve, add_tiny_model
from areal_cppo.cli.study import add_study
from areal_cppo.cli.train import add_train
from areal_cppo.cli.views import add_views
from areal_cppo.errors import RunError, UserError

# In the order of the help.
_COMMANDS = (
    add_demo,
    add_train,
    add_eval,
    add_serve,
    add_report,
    add_card,
    add_tiny_model,
    add_views,
    add_inspect,
    add_reward,
    add_config,
    add_bench,
    add_plan,
    add_slurm,
    add_study,
    add_doctor,
    add_completion,
)


def make_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = Parser(
        prog="areal-cppo",
        description="Contrastive Perception Policy Optimization on AReaL.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(whole=parser)  # for the command that completes all of them
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; `key=value` may stand anywhere in it, between options too."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and ("overrides" not in args or any(word[0] == "-" for word in rest)):
        args.parser.refuse(rest)
    if rest:  # argparse takes one run of them only
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `areal-cppo` command."""
    args = parse(argv)
    with _interruptible() as terminated:
        try:
            status = args.call(args)
            sys.stdout.flush()
            return status
        except (UserError, RunError) as error:
            print(f"areal-cppo {args.command}: {error}", file=sys.stderr)
            return error.exit_status
        except BrokenPipeError:  # nobody reads on, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except KeyboardInterrupt:
            return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """SIGTERM ends a command as Ctrl-C does: what it started ends with it.

    Yields a list that holds the signal once it came. Commands may have handlers of
    their own meanwhile.
    """
    came: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        came.append(number)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # a shell's background jobs ignore it
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
