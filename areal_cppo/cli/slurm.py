"""`areal-cppo slurm`: a submission script for Slurm, written or submitted."""

from __future__ import annotations

import argparse
import glob
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal_cppo.cli.common import at_least, note, output_file, prepare
from areal_cppo.config import TASK_NAMES
from areal_cppo.config.keys import check_early, is_hub_name
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import interpreter_environment

if TYPE_CHECKING:
    from areal_cppo.config.experiment import CPPOConfig

_TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
_NAME = re.compile(r"[\w.+-]+")
_SBATCH_SECONDS = 60

# The options that the script's first lines repeat, in this order.
_WRITTEN = (
    *("config", "nodes", "generation_nodes", "time", "job_name", "partition"),
    *("account", "qos", "cpus_per_task", "notice", "requeues", "runs", "container"),
    *("image", "mounts"),
)


def add_slurm(commands: Any) -> None:
    """Add `slurm` to the parser's commands."""
    command = commands.add_parser(
        "slurm", help="write, or submit, a job for a Slurm cluster"
    )
    command.add_argument("--config", required=True, metavar="FILE")
    command.add_argument("--nodes", type=int, required=True, metavar="N")
    command.add_argument(
        "--generation-nodes",
        type=int,
        metavar="N",
        help="how many of them generate (follows from the backends where GPUs are)",
    )
    command.add_argument(
        "--time", default="24:00:00", help="limit of an attempt (a day)"
    )
    command.add_argument("--job-name", help="default: the configuration's name")
    for name in ("partition", "account", "qos"):
        command.add_argument(f"--{name}")
    command.add_argument(
        "--cpus-per-task",
        type=int,
        metavar="N",
        help="cores of a node (default: what the fullest node's workers ask for)",
    )
    command.add_argument(
        "--notice",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long before the limit the run is asked to stop (300)",
    )
    command.add_argument(
        "--requeues", type=int, default=10, metavar="N", help="restarts at most (10)"
    )
    command.add_argument(
        "--runs", default="runs", metavar="DIR", help="run folders go there (runs)"
    )
    command.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help="shell line to run first, as 'module load cuda'; may be given again",
    )
    command.add_argument(
        "--container", choices=("none", "apptainer", "pyxis"), default="none"
    )
    command.add_argument("--image", metavar="PATH", help="of the container")
    command.add_argument(
        "--mounts", default="", metavar="HOST:CONTAINER,...", help="into the container"
    )
    command.add_argument("-o", "--out", metavar="FILE", help="default: standard output")
    command.add_argument(
        "--submit", action="store_true", help="give it to sbatch, print the job's id"
    )
    command.add_overrides()
    command.set_defaults(call=slurm, default_of=command.get_default)


def slurm(args: argparse.Namespace) -> int:
    """Write the script, or submit it; the exit status."""
    _check(args)
    # The model and the data may be on the cluster only.
    check_early(args.config, args.overrides, paths=[])
    environment = dict(os.environ)  # the job's, whose nodes may have GPUs
    prepare()
    from areal_cppo.cluster.layout import make_layout
    from areal_cppo.cluster.script import Submission, fixed_settings, write_script
    from areal_cppo.config.experiment import load_config
    from areal_cppo.config.resources import check_resources

    settings = [*fixed_settings(args.nodes), *args.overrides]
    with tempfile.TemporaryDirectory() as scratch:
        # Loading writes into these; nothing is to be left of a command that starts
        # nothing.
        own = [
            f"stats_logger.fileroot={scratch}",
            f"cluster.name_resolve.nfs_record_root={scratch}",
        ]
        config = load_config(args.config, [*settings, *own], begins=False)
    layout = make_layout(config, args.nodes, args.generation_nodes)
    # All but what depends on the model, which may be on the cluster only.
    check_resources(config, {})
    for key, path in _files(config):
        if not glob.glob(str(Path(path).expanduser()), recursive=True):
            note(f"{key}: nothing at {path} here; the job will look for it there")
    job = Submission(
        config=args.config,
        overrides=tuple(args.overrides),
        layout=layout,
        job_name=args.job_name or config.experiment_name,
        time=args.time,
        cpus=args.cpus_per_task or layout.cpus_per_node(),
        notice_seconds=args.notice,
        requeues=args.requeues,
        runs=args.runs,
        partition=args.partition,
        account=args.account,
        qos=args.qos,
        setup=tuple(args.setup),
        container=args.container,
        image=args.image or "",
        mounts=args.mounts,
        written_by=_command_line(args),
    )
    text = write_script(job)
    if args.out:
        file = Path(args.out)
        if file.is_file() and file.read_text(encoding="utf-8") != text:
            kept = file.replace(f"{file}~")
            note(f"--out: {file} was another script, which is in {kept} now")
        file = output_file(args.out, "--out")
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
        note(f"script: {file}; mkdir -p logs && sbatch {shlex.quote(str(file))}")
    elif not args.submit:
        print(text, end="")
    own = f"{job.runs}/{job.job_name}-JOBID; another one: run_dir=DIR"
    note(f"run_dir: {job.run_dir or own}")
    if args.submit:
        _submit(text, environment | interpreter_environment(environment))
    return 0


def _files(config: CPPOConfig) -> Iterator[tuple[str, str]]:
    """Keys and paths that can only be files, not names on the hub."""
    train, valid = config.train_dataset, config.valid_dataset
    paths = {"actor.path": config.actor.path, "train_dataset.path": train.path}
    if valid is not None and valid.path != train.path:
        paths["valid_dataset.path"] = valid.path
    for key, path in paths.items():
        if not is_hub_name(path) and path not in TASK_NAMES:
            yield key, path
    if ".py:" in (config.reward.function or ""):
        yield "reward.function", config.reward.function.rpartition(":")[0]


def time_seconds(limit: str) -> int:
    """Seconds of a time limit as sbatch reads it.

    `minutes`, `minutes:seconds`, `hours:minutes:seconds`, or with `days-` before
    `hours`, `hours:minutes` or `hours:minutes:seconds`.
    """
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        units = (3600, 60, 1)
    else:
        units = (60, 1) if len(parts) < 3 else (3600, 60, 1)
    seconds = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return int(days or 0) * 86400 + seconds


def _check(args: argparse.Namespace) -> None:
    for name, least in (
        ("nodes", 1),
        ("generation_nodes", 1),
        ("cpus_per_task", 1),
        ("notice", 1),
        ("requeues", 0),
    ):
        at_least("--" + name.replace("_", "-"), getattr(args, name), least)
    if not _TIME.fullmatch(args.time):
        raise UserError(
            f"--time: expected minutes, [hours:]minutes:seconds or days-hours, found "
            f"{args.time!r}; a day is 24:00:00 or 1-0"
        )
    limit = time_seconds(args.time)
    if args.notice >= limit:
        raise UserError(
            f"--notice: expected fewer seconds than the limit has ({limit}, --time "
            f"{args.time}), found {args.notice}; the run would be stopped at its start"
        )
    for name in ("job_name", "partition", "account", "qos"):
        value = getattr(args, name)
        if value is not None and not _NAME.fullmatch(value.replace(",", "")):
            option = name.replace("_", "-")
            raise UserError(
                f"--{option}: expected letters, digits and ._+-, found {value!r}; "
                "leave out the other characters"
            )
    if shlex.quote(args.runs) != args.runs:
        raise UserError(
            f"--runs: expected a path without spaces or other characters that a shell "
            f"reads, found {args.runs!r}; AReaL passes it through one"
        )
    if (args.container == "none") != (args.image is None):
        raise UserError(
            f"--image: expected with --container apptainer or pyxis, and only there, "
            f"found --container {args.container} and --image {args.image}; "
            "give both or neither"
        )
    for word in args.overrides:
        key, _, value = word.lstrip("+").partition("=")
        if key == "cluster.n_nodes" and value != str(args.nodes):
            raise UserError(
                f"cluster.n_nodes: expected the number of --nodes, {args.nodes}, found "
                f"{value}; leave it out"
            )
        if key == "scheduler.type" and value != "allocation":
            raise UserError(
                f"scheduler.type: expected allocation, found {value}; with slurm or "
                "ray start `areal-cppo train` yourself (docs/slurm.md)"
            )


def _command_line(args: argparse.Namespace) -> str:
    """The command again, with what was given and without where the text went."""
    words = ["areal-cppo", "slurm"]
    for name in _WRITTEN:
        value = getattr(args, name)
        if value != args.default_of(name):
            words += ["--" + name.replace("_", "-"), str(value)]
    for line in args.setup:
        words += ["--setup", line]
    return shlex.join([*words, *args.overrides])


def _submit(text: str, environment: dict[str, str]) -> None:
    """Give the script to sbatch."""
    Path("logs").mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"],
            input=text,
            text=True,
            capture_output=True,
            env=environment,
            timeout=_SBATCH_SECONDS,
        )
    except FileNotFoundError as error:
        raise UserError(
            "--submit: expected sbatch on PATH, found none; submit on a login node of "
            "the cluster, or write the script with -o FILE"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"--submit: expected an answer of sbatch within {_SBATCH_SECONDS} s, found "
            "none; is the cluster's controller up (`scontrol ping`)?"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"--submit: expected sbatch to take the script, found: {said}")
    print(done.stdout.strip().partition(";")[0])  # with the cluster's name, on some
