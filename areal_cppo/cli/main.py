"""`areal-cppo`: parses the command line and turns errors into exit statuses.

0 success; 2 a user's mistake, told in one line; 1 a failure at run time; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from areal_cppo import __version__
from areal_cppo.cli.bench import add_bench
from areal_cppo.cli.inspect import add_inspect
from areal_cppo.cli.plan import add_plan
from areal_cppo.cli.slurm import add_slurm
from areal_cppo.cli.study import add_study
from areal_cppo.cli.views import add_views
from areal_cppo.errors import RunError, UserError
from areal_cppo.report.vocabulary import OBJECTIVES
from areal_cppo.tasks.registry import TASK_NAMES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="areal-cppo",
        description="Contrastive Perception Policy Optimization on AReaL.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="train a tiny model end to end on this machine's CPUs"
    )
    demo.add_argument("--steps", type=int, default=None, help="train steps")
    demo.add_argument("--out", help="folder of the run (default: runs/demo-...)")
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument("--objective", choices=tuple(OBJECTIVES), default="cppo")
    demo.add_argument("overrides", nargs="*", metavar="key=value")

    train = commands.add_parser("train", help="train with the configuration of a file")
    train.add_argument("--config", required=True, metavar="FILE")
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, start nothing"
    )
    train.add_argument("overrides", nargs="*", metavar="key=value")

    evaluate = commands.add_parser(
        "eval", help="accuracy of a model on a validation set, with intervals"
    )
    evaluate.add_argument("--model", required=True, metavar="DIR")
    evaluate.add_argument("--config", required=True, metavar="FILE")
    evaluate.add_argument(
        "--k", type=int, help="responses a problem (default: the configuration's)"
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="problems at most")
    evaluate.add_argument("--out", metavar="DIR", help="folder; one cut off goes on")
    evaluate.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a running server of the model, or several; else one is started",
    )
    evaluate.add_argument("overrides", nargs="*", metavar="key=value")

    serve = commands.add_parser("serve", help="start a generation server alone")
    serve.add_argument("--model", required=True, metavar="DIR")
    serve.add_argument("--port", type=int, required=True)

    report = commands.add_parser("report", help="write report.html of a run's folder")
    report.add_argument("run", metavar="DIR")

    tiny = commands.add_parser(
        "tiny-model", help="make the tiny model that a synthetic task starts from"
    )
    tiny.add_argument("--task", choices=TASK_NAMES, default=TASK_NAMES[0])
    tiny.add_argument("-o", "--out", required=True, metavar="DIR")
    tiny.add_argument("--seed", type=int, default=0)

    add_views(commands)
    add_inspect(commands)
    add_bench(commands)
    add_plan(commands)
    add_slurm(commands)
    add_study(commands)

    doctor = commands.add_parser(
        "doctor", help="what of the environment is ready or missing"
    )
    doctor.add_argument(
        "--config", metavar="FILE", help="look at what this configuration needs, too"
    )
    doctor.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run one parsed command; imports only what it needs."""
    if args.command == "demo":
        from areal_cppo.cli.demo import demo

        return demo(args.steps, args.out, args.seed, args.objective, args.overrides)
    if args.command == "train":
        from areal_cppo.cli.train import train

        return train(args.config, args.overrides, args.dry_run)
    if args.command == "eval":
        from areal_cppo.cli.eval import evaluate

        return evaluate(
            args.model,
            args.config,
            args.k,
            args.limit,
            args.out,
            args.server,
            args.overrides,
        )
    if args.command == "serve":
        from areal_cppo.serving.server import serve

        return serve(args.model, args.port)
    if args.command == "report":
        from areal_cppo.cli.report import report

        return report(args.run)
    if args.command == "views":
        from areal_cppo.cli.views import views

        return views(args)
    if args.command == "inspect":
        from areal_cppo.cli.inspect import inspect

        return inspect(args)
    if args.command == "bench":
        from areal_cppo.cli.bench import bench

        return bench(args)
    if args.command == "plan":
        from areal_cppo.cli.plan import plan

        return plan(args)
    if args.command == "slurm":
        from areal_cppo.cli.slurm import slurm

        return slurm(args)
    if args.command == "study":
        from areal_cppo.cli.study import study

        return study(args)
    if args.command == "tiny-model":
        from areal_cppo.serving.cpu import enable_in_this_process

        enable_in_this_process()
        from areal_cppo.tasks.registry import reading_task
        from areal_cppo.tasks.warmup import make_model

        make_model(reading_task(args.task), args.out, args.seed)
        return 0
    from areal_cppo.cli.doctor import doctor

    return doctor(args.config, args.overrides)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; `key=value` may stand anywhere in it, between options too."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and ("overrides" not in args or any(word[0] == "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes one run of them only
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `areal-cppo` command."""
    args = parse(argv)
    try:
        status = run(args)
        sys.stdout.flush()
        return status
    except (UserError, RunError) as error:
        print(f"areal-cppo {args.command}: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 130
