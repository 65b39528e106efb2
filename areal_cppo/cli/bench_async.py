"""`areal-cppo bench async`: a training run's throughput, and what staleness buys."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from areal_cppo.cli.bench_options import (
    at_least,
    json_target,
    note,
    numbers,
    picture_target,
    target,
)
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import enable_in_this_process

_SLOW = 0.8  # of the fastest server's speed; below that it is told


def add_async(kinds: Any) -> None:
    """Add `async` to the parser of `bench`."""
    command = kinds.add_parser(
        "async", help="a training run: samples/s, who waits for whom, staleness"
    )
    command.add_argument("--config", metavar="FILE", help="train with it, then report")
    command.add_argument("--run", metavar="DIR", help="report of a run's folder")
    command.add_argument(
        "--steps", type=int, metavar="N", help="train steps (the configuration's)"
    )
    command.add_argument(
        "--warmup", type=int, default=2, metavar="N", help="steps left out (2)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="folder of the run or trials (runs/bench-...)"
    )
    command.add_argument(
        "--staleness",
        metavar="N,N,...",
        help="train at each of these bounds of staleness and compare",
    )
    command.add_argument(
        "--alternate",
        type=int,
        metavar="N",
        help="rounds of --staleness, each second one in the opposite order (1)",
    )
    command.add_argument(
        "--seed", type=int, help="of the first round of --staleness (1)"
    )
    command.add_argument(
        "--peak-tflops",
        type=float,
        metavar="N",
        help="a GPU's, for the model FLOP/s utilisation (H100: 989)",
    )
    command.add_argument(
        "--rates", metavar="FILE", help="write rates there, for areal-cppo plan"
    )
    command.add_argument(
        "--rollout",
        metavar="FILE",
        help="what bench rollout --json wrote, for the decode curve of --rates",
    )
    command.add_argument(
        "--trace", metavar="FILE", help="write a trace there, for ui.perfetto.dev"
    )
    command.add_argument("--json", metavar="FILE", help="write the numbers there")
    command.add_argument("--plot", metavar="FILE", help="draw them there")
    command.add_argument("overrides", nargs="*", metavar="key=value")


def bench_async(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    _check(args)
    targets = {
        "json": json_target(args.json),
        "plot": picture_target(args.plot),
        "trace": target(args.trace, "--trace"),
        "rates": target(args.rates, "--rates"),
    }
    if args.staleness:
        return _compare(args, targets)
    if args.run:
        _report(args, Path(args.run), targets)
        return 0
    folder = Path(args.out or _new_folder("bench-async")).absolute()
    _refuse_used(folder)
    status = _train(args, folder, {})
    if not status:
        _report(args, folder, targets)
    elif (folder / "metrics.jsonl").is_file():
        try:
            _report(args, folder, targets)
        except UserError as error:  # cut off before there was anything to report
            note(f"no figures: {error}")
    return status


def _check(args: argparse.Namespace) -> None:
    if bool(args.config) == bool(args.run):
        found = "both" if args.run else "neither"
        raise UserError(
            f"--run: expected either --config FILE or --run DIR, found {found}; give "
            "one of them"
        )
    at_least("--steps", args.steps, 1)
    at_least("--warmup", args.warmup, 0)
    at_least("--alternate", args.alternate, 1)
    if args.peak_tflops is not None and args.peak_tflops <= 0:
        raise UserError(
            f"--peak-tflops: expected a number > 0, found {args.peak_tflops:g}; an "
            "H100's is 989 in bf16"
        )
    if args.run:
        for option in ("steps", "staleness", "out", "overrides"):
            if getattr(args, option):
                name = "key=value" if option == "overrides" else f"--{option}"
                raise UserError(
                    f"{name}: expected with --config only, found it with --run; leave "
                    "it out"
                )
    if args.steps is not None and args.steps <= args.warmup:
        raise UserError(
            f"--steps: expected more than the {args.warmup} steps of --warmup, found "
            f"{args.steps}; raise it"
        )
    if not args.staleness and (args.alternate or args.seed is not None):
        raise UserError(
            "--alternate, --seed: expected with --staleness only, found them without; "
            "leave them out"
        )
    if args.staleness and (args.trace or args.rates):
        raise UserError(
            "--trace, --rates: expected of one run, found --staleness; use --run with "
            "the folder of a trial"
        )
    if args.rollout and not args.rates:
        raise UserError(
            "--rollout: expected --rates FILE beside it, found none; add it"
        )
    for word in args.overrides:
        if word.lstrip("+").split("=")[0] in ("run_dir", "total_train_steps"):
            option = "--out" if "run_dir" in word else "--steps"
            raise UserError(f"{word}: expected {option} for it; give that instead")


def _new_folder(name: str) -> str:
    return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _refuse_used(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"--out: expected a new or empty folder, found {folder} in use; name "
            "another, or report of it with --run"
        )


def _train(args: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> int:
    """A supervised run, as `areal-cppo train` makes it; its exit status."""
    from areal_cppo.cli.demo import quoted
    from areal_cppo.cli.train import run_with_display

    settings = {"run_dir": folder} | settings
    if args.steps is not None:
        settings["total_train_steps"] = args.steps
    own = [f"{key}={quoted(value)}" for key, value in settings.items()]
    name = Path(args.config).stem
    return run_with_display(
        Path(args.config), [*args.overrides, *own], name, args.steps
    )


def _describe_run() -> dict[str, Any]:
    """Where, when, with what and how."""
    enable_in_this_process()
    from areal_cppo.bench.quiet import quiet

    with quiet():
        from areal_cppo.bench import results

        return results.describe_run()


def _report(
    args: argparse.Namespace, folder: Path, targets: dict[str, Path | None]
) -> None:
    enable_in_this_process()
    from areal_cppo.bench import async_results
    from areal_cppo.bench.async_figures import figures
    from areal_cppo.bench.async_run import read_run

    recorded = read_run(folder)
    parameters = None
    if args.peak_tflops is not None and recorded.unit == "GPU":
        from areal_cppo.config.model_size import count_parameters

        parameters = count_parameters(recorded.run.config["actor"]["path"])
    found = figures(recorded, args.warmup, args.peak_tflops, parameters)
    print(async_results.table(found))
    if args.peak_tflops is not None and found["mfu"] is None:
        note("no model FLOP/s utilisation: the run used no GPU, or has no statistics")
    if not recorded.sessions:
        note(
            f"no traces of single responses in {folder}: generation is taken from "
            "timeline.json, if there is one (perf_tracer.session_tracer.enabled=true)"
        )
    if targets["json"] is not None:
        document = _describe_run() | {"kind": "async", "run": str(folder)}
        document["figures"] = found
        targets["json"].write_text(json.dumps(document, indent=1) + "\n")
        print(f"numbers: {targets['json']}")
    if targets["plot"] is not None:
        path = str(targets["plot"])
        print(f"picture: {async_results.draw(found, recorded.metrics, path)}")
    if targets["trace"] is not None:
        from areal_cppo.bench.async_trace import write_trace

        events = write_trace(targets["trace"], recorded)
        print(f"trace: {targets['trace']} ({events} events; open in ui.perfetto.dev)")
    if targets["rates"] is not None:
        _write_rates(args, recorded, targets["rates"])


def _write_rates(args: argparse.Namespace, recorded: Any, path: Path) -> None:
    from areal_cppo.bench.async_rates import fit_rates, read_rollout
    from areal_cppo.plan.rates import write_rates

    where = _describe_run()
    machine = where["machine"]
    measured = {
        "command": shlex.join(["areal-cppo", *sys.argv[1:]]),
        "machine": f"{machine['gpu'] or machine['processor']}, "
        f"{machine['cores']} cores",
        "date": where["date"],
    }
    rollout = read_rollout(args.rollout) if args.rollout else None
    fitted = fit_rates(recorded, args.warmup, measured, rollout)
    write_rates(path, fitted.rates)
    print(f"rates: {path}")
    for server, speed in fitted.speeds.items():
        if speed < _SLOW:
            note(
                f"server {server} is slower than the fastest, whose rates these are: "
                f"{speed:.0%} of its speed"
            )


def _compare(args: argparse.Namespace, targets: dict[str, Path | None]) -> int:
    from areal_cppo.bench import async_compare

    bounds = numbers(args.staleness, "--staleness", 0)
    if not args.steps:
        raise UserError(
            "--steps: expected the number of train steps of each trial, found none; "
            "add it"
        )
    out = Path(args.out or _new_folder("bench-staleness")).absolute()
    seed = 1 if args.seed is None else args.seed
    trials = async_compare.schedule(bounds, args.alternate or 1, out)
    async_compare.check_settings(
        out,
        {
            "config": str(Path(args.config).absolute()),
            "steps": args.steps,
            "seed": seed,
            "overrides": args.overrides,
        },
    )

    def start(trial: async_compare.Trial) -> int:
        return _train(
            args,
            trial.folder,
            {
                "rollout.max_head_offpolicyness": trial.staleness,
                "seed": seed + trial.round - 1,
            },
        )

    status = async_compare.run_trials(trials, start, note)
    enable_in_this_process()
    document = async_compare.describe(trials, args.warmup)
    if document["tradeoff"]:
        print(async_compare.table(document["tradeoff"]))
    if status:
        note(f"not all trials are finished; the same command with --out {out} goes on")
    if targets["json"] is not None:
        document = _describe_run() | {"kind": "staleness"} | document
        targets["json"].write_text(json.dumps(document, indent=1) + "\n")
        print(f"numbers: {targets['json']}")
    if targets["plot"] is not None and document["tradeoff"]:
        path = async_compare.draw(document["tradeoff"], str(targets["plot"]))
        print(f"picture: {path}")
    return status
