"""`areal-cppo bench async`: a training run's throughput, and what staleness buys."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from areal_cppo.cli import train
from areal_cppo.cli.bench_options import (
    add_options,
    check_peak,
    json_file,
    numbers,
    picture_file,
    write_numbers,
)
from areal_cppo.cli.common import (
    at_least,
    check_unused,
    note,
    output_file,
    quoted,
)
from areal_cppo.errors import UserError

_SLOW = 0.8  # of the fastest server's speed; below that it is told
_OPTIONS = (
    ("config", str, "FILE", "train with it, then report"),
    ("run", str, "DIR", "report of a run's folder"),
    ("steps", int, "N", "train steps (the configuration's)"),
    ("warmup", int, "N", "steps left out (2)"),
    ("out", str, "DIR", "folder of the run or trials (runs/bench-...)"),
    (
        *("staleness", str, "N,N,..."),
        "train at each of these bounds of staleness and compare",
    ),
    (
        *("alternate", int, "N"),
        "rounds of --staleness, each second one in the opposite order (1)",
    ),
    ("seed", int, None, "of the first round of --staleness (1)"),
    (
        *("peak-tflops", float, "N"),
        "a GPU's, for the model FLOP/s utilisation (H100: 989)",
    ),
    ("rates", str, "FILE", "write rates there, for areal-cppo plan"),
    (
        *("rollout", str, "FILE"),
        "what bench rollout --json wrote, for the decode curve of --rates",
    ),
    ("trace", str, "FILE", "write a trace there, for ui.perfetto.dev"),
    ("json", str, "FILE", "write the numbers there"),
    ("plot", str, "FILE", "draw them there"),
)
Files = dict[str, Path | None]  # to write, by option


def add_async(kinds: Any) -> None:
    """Add `async` to the parser of `bench`."""
    command = kinds.add_parser(
        "async", help="a training run: samples/s, who waits for whom, staleness"
    )
    add_options(command, _OPTIONS)
    command.add_overrides()
    command.set_defaults(call=bench_async, warmup=2)


def bench_async(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    _check(args)
    files = {
        "json": json_file(args),
        "plot": picture_file(args),
        "trace": output_file(args.trace, "--trace") if args.trace else None,
        "rates": output_file(args.rates, "--rates") if args.rates else None,
    }
    if args.staleness:
        return _compare(args, files)
    if args.run:
        _report(args, Path(args.run), files)
        return 0
    folder = Path(args.out or _new_folder("bench-async")).absolute()
    check_unused(folder, mend="name another, or report of it with --run")
    status = _train(args, folder, {})
    if not status:
        _report(args, folder, files)
    elif (folder / "metrics.jsonl").is_file():
        try:
            _report(args, folder, files)
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
    check_peak(args.peak_tflops)
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


def _train(args: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> int:
    """A supervised run, as `areal-cppo train` makes it; its exit status."""
    settings = {"run_dir": folder} | settings
    if args.steps is not None:
        settings["total_train_steps"] = args.steps
    own = [f"{key}={quoted(value)}" for key, value in settings.items()]
    config = Path(args.config)
    return train.run_with_display(
        config, [*args.overrides, *own], config.stem, args.steps
    )


def _report(args: argparse.Namespace, folder: Path, files: Files) -> None:
    from areal_cppo.bench import async_run

    recorded = async_run.read_run(folder)  # looked at before much is imported
    from areal_cppo.bench import async_results
    from areal_cppo.bench.async_figures import figures

    parameters = None
    if args.peak_tflops is not None and recorded.unit == "GPU":
        from areal_cppo.config.models import count_parameters

        parameters = count_parameters(recorded.run.config["actor"]["path"])
    found = figures(recorded, args.warmup, args.peak_tflops, parameters)
    print(async_results.run_table(found))
    if args.peak_tflops is not None and found["mfu"] is None:
        note("no model FLOP/s utilisation: the run used no GPU, or has no statistics")
    if not recorded.sessions:
        note(
            f"no traces of single responses in {folder}: generation is taken from "
            "timeline.json, if there is one (perf_tracer.session_tracer.enabled=true)"
        )
    if files["json"] is not None:
        from areal_cppo.bench.machine import describe_run

        document = describe_run() | {"kind": "async", "run": str(folder)}
        write_numbers(files["json"], document | {"figures": found})
    if files["plot"] is not None:
        async_results.draw_run(found, recorded.metrics, files["plot"])
        print(f"picture: {files['plot']}")
    if files["trace"] is not None:
        from areal_cppo.bench.async_trace import write_trace

        events = write_trace(files["trace"], recorded)
        print(f"trace: {files['trace']} ({events} events; open in ui.perfetto.dev)")
    if files["rates"] is not None:
        _write_rates(args, recorded, files["rates"])


def _write_rates(args: argparse.Namespace, recorded: Any, path: Path) -> None:
    from areal_cppo.bench.async_rates import fit_rates, read_rollout
    from areal_cppo.bench.machine import describe_run
    from areal_cppo.plan.rates import write_rates

    where = describe_run()
    machine = where["machine"]
    measured = {
        "command": where["command"],
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


def _compare(args: argparse.Namespace, files: Files) -> int:
    from areal_cppo.bench import async_compare, async_results

    bounds = numbers(args.staleness, "--staleness", 0)
    if not args.steps:
        raise UserError(
            "--steps: expected the number of train steps of each trial, found none; "
            "add it"
        )
    out = Path(args.out or _new_folder("bench-staleness")).absolute()
    seed = 1 if args.seed is None else args.seed
    trials = async_compare.schedule(bounds, args.alternate or 1, out)
    common = {
        "config": str(Path(args.config).absolute()),
        "steps": args.steps,
        "seed": seed,
        "overrides": args.overrides,
    }
    async_compare.check_settings(out, common)

    def start(trial: async_compare.Trial) -> int:
        bound, own = trial.staleness, seed + trial.round - 1
        settings = {"rollout.max_head_offpolicyness": bound, "seed": own}
        return _train(args, trial.folder, settings)

    status = async_compare.run_trials(trials, start, note)
    found = async_compare.describe(trials, args.warmup)
    if found["tradeoff"]:
        print(async_results.tradeoff_table(found["tradeoff"]))
    if status:
        note(f"not all trials are finished; the same command with --out {out} goes on")
    if files["json"] is not None:
        from areal_cppo.bench.machine import describe_run

        write_numbers(files["json"], describe_run() | {"kind": "staleness"} | found)
    if files["plot"] is not None and found["tradeoff"]:
        async_results.draw_tradeoff(found["tradeoff"], files["plot"])
        print(f"picture: {files['plot']}")
    return status
