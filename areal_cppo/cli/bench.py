"""`areal-cppo bench`: measurements, as a table, as JSON and as pictures."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import fields
from typing import Any

from areal_cppo.cli.bench_async import add_async, bench_async
from areal_cppo.cli.bench_options import json_target, note
from areal_cppo.cli.bench_predict import add_predict, bench_predict
from areal_cppo.cli.bench_rollout import add_rollout, bench_rollout
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import enable_in_this_process

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


def add_bench(commands: Any) -> None:
    """Add `bench` and its own commands to the parser's."""
    bench = commands.add_parser("bench", help="measure trainer, servers, and both")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    step = kinds.add_parser(
        "train-step", help="a train step of AReaL, of the published CPPO and of ours"
    )
    for name, kind, help in (
        ("image", int, "side of an image, pixels (448)"),
        ("prompt", int, "text tokens of a prompt, beside those of its image (150)"),
        ("response", int, "tokens of a response, on average (400)"),
        ("group", int, "responses a prompt (8)"),
        ("groups", int, "prompts a step (2; with --gpu 8)"),
        ("positive", float, "share of responses with a positive advantage (0.4)"),
        ("max-tokens", int, "tokens a micro-batch at most (4096; with --gpu 8192)"),
        ("seed", int, "of tokens, pixels and weights (1)"),
    ):
        step.add_argument(f"--{name}", type=kind, metavar="N", help=help)
    step.add_argument(
        "--model",
        help="a shape (tiny, small, qwen2.5-vl-3b), or a config.json; random weights",
    )
    step.add_argument("--arms", metavar="LETTERS", help="only these, as a,d")
    step.add_argument("--repeats", type=int, metavar="N", help="timed runs an arm (3)")
    step.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of the CPU (all cores; with --quick 1)",
    )
    step.add_argument("--quick", action="store_true", help="tiny sizes, one repeat")
    step.add_argument("--gpu", action="store_true", help="Qwen2.5-VL-3B in bf16")
    step.add_argument(
        "--peak-tflops", type=float, metavar="N", help="the device's, to compare with"
    )
    step.add_argument(
        "--sweep",
        choices=("positive", "response", "image", "group"),
        help="arms a, c and d over some values of a knob",
    )
    step.add_argument("--json", metavar="FILE", help="write the numbers there")
    step.add_argument("--plots", metavar="DIR", help="draw --json's file there")
    add_rollout(kinds)
    add_async(kinds)
    add_predict(kinds)
    plot = kinds.add_parser("plot", help="draw what train-step --json wrote")
    plot.add_argument("files", nargs="+", metavar="FILE")
    plot.add_argument("-o", "--out", required=True, metavar="DIR")


def bench(args: argparse.Namespace) -> int:
    """Run one of the commands of `bench`; the exit status."""
    if args.bench == "plot":
        _plot(args.files, args.out)
        return 0
    if args.bench == "rollout":
        return bench_rollout(args)
    if args.bench == "async":
        return bench_async(args)
    if args.bench == "predict":
        return bench_predict(args)
    return _train_step(args)


def _plot(files: list[str], out: str) -> None:
    from areal_cppo.bench.plots import plot_files

    for picture in plot_files(files, out):
        print(f"picture: {picture}")


def _train_step(args: argparse.Namespace) -> int:
    for name, value, least in (
        ("--repeats", args.repeats, 1),
        ("--threads", args.threads, 1),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}: expected a number >= {least}, found {value}")
    if args.peak_tflops is not None and args.peak_tflops <= 0:
        raise UserError(
            f"--peak-tflops: expected a number > 0, found {args.peak_tflops:g}; an "
            "H100's is 989 in bf16"
        )
    if args.plots and not args.json:
        raise UserError("--plots: expected --json FILE beside it, found none; add it")
    if args.sweep and args.arms:
        raise UserError(
            f"--arms: expected none with --sweep, which runs a, c and d, found "
            f"{args.arms!r}; leave it out"
        )
    if not args.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Read when torch is imported. By default a thread that waits for another keeps its
    # core busy: beside other work a step on all cores then takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    enable_in_this_process()
    import torch

    if args.gpu and not torch.cuda.is_available():
        raise UserError("--gpu: expected a CUDA device, found none; leave it out")
    from areal_cppo.bench.quiet import quiet

    with quiet():
        return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    import torch

    from areal_cppo.bench import results, sweep
    from areal_cppo.bench.arms import select_arms
    from areal_cppo.bench.models import model_config
    from areal_cppo.bench.train_step import measure, model_folder
    from areal_cppo.bench.workload import Workload

    sizes = _QUICK if args.quick else _GPU if args.gpu else {}
    model = "tiny" if args.quick else "qwen2.5-vl-3b" if args.gpu else "small"
    model = args.model or model
    given = {field.name: getattr(args, field.name) for field in fields(Workload)}
    given = {name: value for name, value in given.items() if value is not None}
    workload = Workload(**sizes | given)
    arms = select_arms(sweep.ARMS if args.sweep else args.arms)
    workloads = [workload]
    if args.sweep:
        workloads = sweep.points(args.sweep, workload, args.quick)
    repeats = args.repeats or (1 if args.quick else 2 if args.sweep else 3)
    model_config(model)  # a mistake in it comes before anything is measured
    target = json_target(args.json)

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(args.threads or (1 if args.quick else cores))
    document = results.describe_run() | {"complete": False}
    runs: list[tuple[Workload, list]] = []
    try:
        with model_folder(model, workload.seed) as (folder, config):
            for each in workloads:
                if args.sweep:
                    note(f"--{args.sweep} {getattr(each, args.sweep)}")
                runs.append((each, []))
                measure(arms, each, folder, config, repeats, note, runs[-1][1])
        document["complete"] = True
    except KeyboardInterrupt:
        note("interrupted; what was measured is kept")
        raise
    finally:
        described = []
        for each, measured in runs:
            described.append(results.describe(each, model, measured, args.peak_tflops))
            if args.sweep:
                print(f"--{args.sweep} {getattr(each, args.sweep)}")
            print(results.table(described[-1]["arms"]))
        if args.sweep:
            document["sweep"] = {"knob": args.sweep, "points": described}
        elif described:
            document |= described[0]
        if target is not None:
            target.write_text(json.dumps(document, indent=1) + "\n")
            print(f"numbers: {target}")
    if args.plots:
        _plot([args.json], args.plots)
    return 0
