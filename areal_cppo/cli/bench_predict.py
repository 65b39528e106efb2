"""`areal-cppo bench predict`: finished runs beside what `plan` would have said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from areal_cppo.bench.quiet import quiet
from areal_cppo.cli.bench_options import at_least, json_target
from areal_cppo.serving.cpu import enable_in_this_process


def add_predict(kinds: Any) -> None:
    """Add `predict` to the parser of `bench`."""
    command = kinds.add_parser(
        "predict", help="finished runs beside what the simulation says of them"
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    command.add_argument(
        "--rates",
        metavar="FILE",
        help="simulate with these, as bench async --rates writes them (each run's own)",
    )
    command.add_argument(
        "--warmup", type=int, default=2, metavar="N", help="steps left out (2)"
    )
    command.add_argument("--json", metavar="FILE", help="write the numbers there")


def bench_predict(args: argparse.Namespace) -> int:
    """Simulate each run and print both; the exit status."""
    at_least("--warmup", args.warmup, 0)
    target = json_target(args.json)
    enable_in_this_process()
    with quiet():
        from areal_cppo.bench import results
        from areal_cppo.bench.async_run import read_run
        from areal_cppo.bench.predict import Measurement, table
        from areal_cppo.plan.rates import read_rates

    rates = read_rates(args.rates) if args.rates else None
    described = []
    for folder in args.runs:
        recorded = read_run(Path(folder))
        run = Measurement.of_run(recorded, args.warmup, rates)
        described.append(run.as_json())
    print(table(described))
    if target is not None:
        document = results.describe_run() | {"kind": "predict", "runs": described}
        target.write_text(json.dumps(document, indent=1) + "\n")
        print(f"numbers: {target}")
    return 0
