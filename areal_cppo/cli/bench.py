"""`areal-cppo bench`: measurements, as a table, as JSON and as pictures.

Here: the trainer by itself, and finished runs beside what `plan` would have said.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from areal_cppo.bench.arms import Arm, select_arms
from areal_cppo.bench.workload import (
    SWEEP_ARMS,
    SWEEPS,
    Workload,
    check_model,
    sweep,
)
from areal_cppo.cli.bench_async import add_async
from areal_cppo.cli.bench_hand_over import add_hand_over
from areal_cppo.cli.bench_options import (
    add_options,
    check_peak,
    json_file,
    write_numbers,
)
from areal_cppo.cli.bench_rollout import add_rollout
from areal_cppo.cli.common import at_least, note, prepare
from areal_cppo.errors import UserError

# Overridden by options.
_QUICK = {
    "image": 56,
    "prompt": 10,
    "response": 20,
    "group": 4,
    "groups": 2,
    "max_tokens": 512,
}
_GPU = {"groups": 8, "max_tokens": 8192}
_SIZES = (
    ("image", int, "N", "side of an image, pixels (448)"),
    ("prompt", int, "N", "text tokens of a prompt, beside those of its image (150)"),
    ("response", int, "N", "tokens of a response, on average (400)"),
    ("group", int, "N", "responses a prompt (8)"),
    ("groups", int, "N", "prompts a step (2; with --gpu 8)"),
    ("positive", float, "N", "share of responses with a positive advantage (0.4)"),
    ("max-tokens", int, "N", "tokens a micro-batch at most (4096; with --gpu 8192)"),
    ("seed", int, "N", "of tokens, pixels and weights (1)"),
)
_OTHERS = (
    (
        *("model", str, None),
        "a shape (tiny, small, qwen2.5-vl-3b), or a config.json; random weights",
    ),
    ("arms", str, "LETTERS", "only these, as a,d"),
    ("repeats", int, "N", "timed runs an arm (3)"),
    ("threads", int, "N", "of the CPU (all cores; with --quick 1)"),
    ("peak-tflops", float, "N", "the device's, to compare with"),
    ("json", str, "FILE", "write the numbers there"),
    ("plots", str, "DIR", "draw --json's file there"),
)


def add_bench(commands: Any) -> None:
    """Add `bench` and its own commands to the parser's."""
    bench = commands.add_parser("bench", help="measure trainer, servers, and both")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    step = kinds.add_parser(
        "train-step", help="a train step of AReaL, of the published CPPO and of ours"
    )
    add_options(step, (*_SIZES, *_OTHERS))
    step.add_argument("--quick", action="store_true", help="tiny sizes, one repeat")
    step.add_argument("--gpu", action="store_true", help="Qwen2.5-VL-3B in bf16")
    step.add_argument(
        "--sweep",
        choices=tuple(SWEEPS),
        help="arms a, c and d over some values of a knob",
    )
    step.set_defaults(call=_train_step)
    add_hand_over(kinds)
    add_rollout(kinds)
    add_async(kinds)
    predict = kinds.add_parser(
        "predict", help="finished runs beside what the simulation says of them"
    )
    predict.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    rates = "simulate with these, as bench async --rates writes them (each run's own)"
    add_options(
        predict,
        (
            ("rates", str, "FILE", rates),
            ("warmup", int, "N", "steps left out (2)"),
            ("json", str, "FILE", "write the numbers there"),
        ),
    )
    predict.set_defaults(call=_predict, warmup=2)
    plot = kinds.add_parser("plot", help="draw what train-step --json wrote")
    plot.add_argument("files", nargs="+", metavar="FILE")
    plot.add_argument("-o", "--out", required=True, metavar="DIR")
    plot.set_defaults(call=_plot)


def _plot(args: argparse.Namespace) -> int:
    _draw(args.files, args.out)
    return 0


def _draw(files: list[str], out: str) -> None:
    from areal_cppo.bench.plots import plot_files

    for picture in plot_files(files, out):
        print(f"picture: {picture}")


def _predict(args: argparse.Namespace) -> int:
    """Simulate each run and print both."""
    at_least("--warmup", args.warmup, 0)
    target = json_file(args)
    from areal_cppo.bench.async_run import read_run

    recorded = [read_run(folder) for folder in args.runs]
    from areal_cppo.bench.predict import Measurement, runs_table
    from areal_cppo.plan.rates import read_rates

    rates = read_rates(args.rates) if args.rates else None
    runs = [Measurement.of_run(run, args.warmup, rates).as_json() for run in recorded]
    print(runs_table(runs))
    if target is not None:
        from areal_cppo.bench.machine import describe_run

        write_numbers(target, describe_run() | {"kind": "predict", "runs": runs})
    return 0


def _train_step(args: argparse.Namespace) -> int:
    at_least("--repeats", args.repeats, 1)
    at_least("--threads", args.threads, 1)
    check_peak(args.peak_tflops)
    if args.plots and not args.json:
        raise UserError("--plots: expected --json FILE beside it, found none; add it")
    if args.sweep and args.arms:
        raise UserError(
            f"--arms: expected none with --sweep, which runs a, c and d, found "
            f"{args.arms!r}; leave it out"
        )
    sizes = _QUICK if args.quick else _GPU if args.gpu else {}
    given = {field.name: getattr(args, field.name) for field in fields(Workload)}
    given = {name: value for name, value in given.items() if value is not None}
    workload = Workload(**sizes | given)
    arms = select_arms(SWEEP_ARMS if args.sweep else args.arms)
    workloads = sweep(args.sweep, workload, args.quick) if args.sweep else [workload]
    usual = "tiny" if args.quick else "qwen2.5-vl-3b" if args.gpu else "small"
    args.model = args.model or usual
    check_model(args.model)
    target = json_file(args)
    if not args.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Read when torch is imported. By default a thread that waits for another keeps its
    # core busy: beside other work a step on all cores then takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    prepare()
    import torch

    if args.gpu and not torch.cuda.is_available():
        raise UserError("--gpu: expected a CUDA device, found none; leave it out")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(args.threads or (1 if args.quick else cores))
    from areal_cppo.bench.quiet import quiet

    with quiet():
        _measure(args, workloads, arms, target)
    if args.plots:
        _draw([args.json], args.plots)
    return 0


def _measure(
    args: argparse.Namespace,
    workloads: Sequence[Workload],
    arms: Sequence[Arm],
    target: Path | None,
) -> None:
    """Measure, and tell what was measured, also after a Ctrl-C."""
    from areal_cppo.bench import machine, models, results, train_step

    repeats = args.repeats or (1 if args.quick else 2 if args.sweep else 3)
    document = machine.describe_run() | {"complete": False}
    runs: list[tuple[Workload, list]] = []
    try:
        with models.model_folder(args.model, workloads[0].seed) as model:
            for workload in workloads:
                if args.sweep:
                    note(_at(args.sweep, workload))
                runs.append((workload, []))
                train_step.measure(arms, workload, *model, repeats, note, runs[-1][1])
        document["complete"] = True
    except KeyboardInterrupt:
        note("interrupted; what was measured is kept")
        raise
    finally:
        described = [
            results.describe(workload, args.model, measured, args.peak_tflops)
            for workload, measured in runs
        ]
        for (workload, _), run in zip(runs, described):
            if args.sweep:
                print(_at(args.sweep, workload))
            print(results.arms_table(run["arms"]))
        if args.sweep:
            document["sweep"] = {"knob": args.sweep, "points": described}
        elif described:
            document |= described[0]
        write_numbers(target, document)


def _at(knob: str, workload: Workload) -> str:
    return f"--{knob} {getattr(workload, knob)}"
