"""`python -m tests.gpu_check`: what no CPU can prove, on one GPU of 80 GB.

Nine steps in at most 12 minutes: environment, attention, its times, the tiny actor,
views, output head, train steps of the 3B, a profile, hand-over between processes.
docs/gpu.md says what each proves, and of a tenth that is run on request. Exit status:
0 if all steps ran and all bounds hold, 1 if not, 2 for a mistake in using it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from areal_cppo.errors import UserError
from tests.gpu_check import folder
from tests.gpu_check.run import Plan, check
from tests.gpu_check.steps import choose


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    try:
        if args.show is not None:
            return _show(args.show)
        if args.minutes <= 0:
            raise UserError(
                f"--minutes: expected a number > 0, found {args.minutes:g}; the whole "
                "check takes 12 at most"
            )
        plan = Plan(
            steps=choose(args.steps, args.first),
            out=args.out,
            wheels=args.wheels,
            minutes=args.minutes,
            rehearse=args.rehearse,
            command=["python", "-m", "tests.gpu_check", *argv],
        )
        return check(plan)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or "gpu-check"),
        metavar="DIR",
        help="folder for the results ($OUT, or gpu-check)",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        default=Path("gpu-wheels"),
        metavar="DIR",
        help="what `make gpu-wheels` made; not needed where areal is installed",
    )
    parser.add_argument("--steps", metavar="LIST", help="only these, as 1,2 or 4-6")
    parser.add_argument(
        "--from", type=int, dest="first", metavar="N", help="steps from this one on"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=12,
        metavar="N",
        help="for everything, installing included (12)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="try the script on the CPU, in miniature; it proves nothing of a GPU",
    )
    parser.add_argument(
        "--show", type=Path, metavar="DIR", help="print a finished run as markdown"
    )
    return parser


def _show(path: Path) -> int:
    documents = list(folder.read(path).values())
    if not documents:
        raise UserError(
            f"--show: expected a folder with {folder.SUMMARY}, found none in {path}; "
            "name the folder of a run"
        )
    print(folder.markdown(documents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
