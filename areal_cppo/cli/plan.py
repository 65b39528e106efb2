"""`areal-cppo plan`: how to split a number of GPUs, by simulation."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from areal_cppo.cli.common import note, output_file
from areal_cppo.errors import UserError

_BATCH, _GROUP, _BOUNDS = 512, 8, "0,1,2,4,8"
_MOST_BOUND = 64
_PICTURES = (".png", ".svg", ".pdf")
_WARMUP = 2  # steps of a run that its rates leave out, as bench async does


def add_plan(commands: Any) -> None:
    """Add `plan` to the parser's commands."""
    command = commands.add_parser(
        "plan",
        help="how many GPUs should generate and how many train (a simulation)",
        description="Simulates splits of N GPUs between generation servers and the "
        "trainer, and staleness bounds, and ranks them by samples/s.",
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--rates", metavar="FILE", help="rates, as bench async --rates writes them"
    )
    source.add_argument(
        "--run", metavar="DIR", help="a finished run, to take rates and settings from"
    )
    _number(command, "--gpus", "in all", required=True)
    _number(command, "--batch", f"prompts a step (the run's, or {_BATCH})")
    _number(command, "--group", f"responses a prompt (the run's, or {_GROUP})")
    command.add_argument(
        "--staleness",
        default=_BOUNDS,
        metavar="LIST",
        help=f"bounds to try, max_head_offpolicyness ({_BOUNDS})",
    )
    _number(command, "--concurrent", "max_concurrent_rollouts (what fills all slots)")
    command.add_argument(
        "--exact",
        action="store_true",
        help="train batches in the order of their start: no sample over the bound",
    )
    _number(command, "--steps", "train steps that count (12)", default=12)
    _number(command, "--tries", "simulations a bound (8)", default=8)
    _number(command, "--top", "rows (5)", default=5)
    command.add_argument("--seed", type=int, default=1, help="of the lengths drawn (1)")
    command.add_argument("--json", metavar="FILE", help="write the numbers there")
    command.add_argument("--plot", metavar="FILE", help="draw throughput against split")
    command.set_defaults(call=plan)


def _number(command: Any, option: str, text: str, **settings: Any) -> None:
    command.add_argument(option, type=int, metavar="N", help=text, **settings)


def plan(args: argparse.Namespace) -> int:
    """Search, print the best few; the exit status. Ctrl-C keeps what is done."""
    from areal_cppo.plan import search, table
    from areal_cppo.plan.rates import read_rates
    from areal_cppo.plan.setting import Setting

    bounds = _bounds(args.staleness)
    for name in ("steps", "tries", "top", "seed", "batch", "group", "concurrent"):
        value, least = getattr(args, name), int(name != "seed")
        if value is not None and value < least:
            raise UserError(
                f"--{name}: expected a whole number >= {least}, found {value}; "
                "correct it"
            )
    if args.run is not None:
        rates, run = _measured(args.run)
        batch, group = args.batch or run.batch, args.group or run.group
    else:
        rates = read_rates(args.rates)
        batch, group = args.batch or _BATCH, args.group or _GROUP
    search.splits(rates, args.gpus, batch * group)  # too few are told at once
    numbers = output_file(args.json, "--json") if args.json else None
    picture = output_file(args.plot, "--plot", _PICTURES) if args.plot else None
    base = Setting(
        servers=1,
        ranks=1,
        batch=batch,
        group=group,
        staleness=0,
        steps=args.steps,
        admission="exact" if args.exact else "areal",
        concurrent=args.concurrent,
        seed=args.seed,
    )
    found = search.Plan(args.gpus)
    print(
        f"simulation: {args.gpus} GPUs, {batch} prompts a step, {group} responses each"
    )
    try:
        search.search(rates, found, base, bounds, args.tries, note)
    except KeyboardInterrupt:
        note("interrupted; what was simulated is kept")
        raise
    finally:
        if found.best:
            print(table.table(found, rates, args.top))
            print("not modelled:")
            for line in table.NOT_MODELLED:
                print(f"  - {line}")
        _write(found, rates, args.top, numbers, picture)
    return 0


def _measured(folder: str) -> tuple[Any, Any]:
    """Rates of a run, as bench async --run fits them, and how it was set."""
    from areal_cppo.bench.async_rates import fit_rates
    from areal_cppo.bench.async_run import read_run
    from areal_cppo.plan.setting import run_setting

    recorded = read_run(folder)
    setting = run_setting(recorded.run.config, folder)
    measured = {"command": shlex.join(["areal-cppo", *sys.argv[1:]])}
    warmup = min(_WARMUP, len(recorded.metrics) - 1)
    try:
        return fit_rates(recorded, warmup, measured).rates, setting
    except UserError as error:
        told = str(error).removeprefix("--rates: ")
        raise UserError(f"--run: {told}") from error


def _write(found, rates, most: int, numbers: Path | None, picture: Path | None) -> None:
    from areal_cppo.plan import table

    if numbers is not None:
        document = {
            "command": shlex.join(["areal-cppo", *sys.argv[1:]]),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        } | table.as_json(found, rates, most)
        numbers.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"numbers: {numbers}")
    if picture is not None and found.best:
        from areal_cppo.plan.plots import plot

        plot(found, rates, picture)
        print(f"picture: {picture}")


def _bounds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) <= _MOST_BOUND for word in words):
        raise UserError(
            f"--staleness: expected whole numbers from 0 to {_MOST_BOUND}, as "
            f"{_BOUNDS}, found {text!r}; correct it"
        )
    return sorted({int(word) for word in words})
