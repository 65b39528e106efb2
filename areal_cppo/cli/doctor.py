"""`areal-cppo doctor`: what is ready, what is missing and how to get it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from areal_cppo.cli.common import prepare
from areal_cppo.config.keys import check_early
from areal_cppo.doctor import Check
from areal_cppo.doctor.machine import (
    check_checkpoint,
    check_placeholders,
    machine_checks,
    torch_sees_gpus,
)
from areal_cppo.doctor.packages import (
    check_flash_attn,
    check_python,
    package_checks,
)
from areal_cppo.errors import UserError
from areal_cppo.report.table import table
from areal_cppo.serving.cpu import SHIM_FOLDER
from areal_cppo.tasks.problems import TRIANGLES


def add_doctor(commands: Any) -> None:
    """Add `doctor` to the parser's commands."""
    command = commands.add_parser(
        "doctor", help="what of the environment is ready or missing"
    )
    command.add_argument(
        "--config", metavar="FILE", help="look at what this configuration needs, too"
    )
    command.add_overrides()
    command.set_defaults(call=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Print the table; 0 if the demo, or the configuration, can run on this machine."""
    what = "the demo"
    if args.config is not None:
        what = Path(args.config).stem
        check_early(args.config, args.overrides, paths=[])
    checks = all_checks()
    if args.config is not None:
        checks += config_checks(args.config, args.overrides)
    print(as_table(checks))
    lacking = [check.name for check in checks if check.lacking]
    if lacking:
        print(f"\n{what} cannot run here yet: {', '.join(lacking)}")
        return 1
    command = "areal-cppo demo (or make demo)"
    if args.config is None and torch_sees_gpus():
        print("\nfor a recipe: areal-cppo doctor --config configs/FILE.yaml")
        return 0
    if args.config is not None:
        command = f"areal-cppo train --config {args.config} --dry-run"
    print(f"\n{what} can run here: {command}")
    return 0


def as_table(checks: list[Check]) -> str:
    """Aligned columns; the remedy on a line of its own."""
    rows = []
    for check in checks:
        rows.append((check.state, check.name, check.found))
        if not check.ready and check.remedy:
            rows.append(("", "", f"-> {check.remedy}"))
    return table(None, rows, words=3)


def all_checks() -> list[Check]:
    """The rows that do not depend on a configuration, in the order of the table."""
    return [
        check_python(),
        *package_checks(),
        check_flash_attn(),
        *machine_checks(),
        check_placeholders(SHIM_FOLDER),
        check_checkpoint(TRIANGLES.checkpoint),
    ]


def config_checks(path: str, overrides: list[str]) -> list[Check]:
    """A row for each thing that a run with this configuration needs.

    Raises
    ------
    UserError
        The file can't be read as a configuration.
    """
    prepare()
    from areal_cppo.config.experiment import load_config
    from areal_cppo.config.resources import check_resources
    from areal_cppo.rewards.own import check_function
    from areal_cppo.run import preflight

    config = load_config(path, overrides, begins=False)
    cluster = config.cluster
    size = f"{cluster.n_nodes} node(s) x {cluster.n_gpus_per_node} GPU(s)"
    model_config, model = _tried(
        "actor.path", config.actor.path, preflight.check_model_config, config.actor
    )
    rows = [
        model,
        _tried("resources", size, check_resources, config, model_config or {})[1],
        _tried("GPUs of the run", size, preflight.check_gpus, config)[1],
    ]
    if model_config is not None:
        rows += [
            _tried("weights", "all there", preflight.check_weights, config.actor)[1],
            _tried("run_dir", config.run_dir, preflight.check_run_disk, config)[1],
        ]
    if config.reward.function:
        name = config.reward.function
        row = _tried("reward.function", name, check_function, name, config.reward.sees)
        rows.append(row[1])
    for name, block in (
        ("train_dataset.path", config.train_dataset),
        ("valid_dataset.path", config.valid_dataset),
    ):
        if block is not None:
            rows.append(preflight.check_data_path(name, block.path))
    return rows


def _tried(
    name: str, found: str, check: Callable[..., Any], *arguments: Any
) -> tuple[Any, Check]:
    """A check that raises, as a row; with what it returned, or `None`."""
    try:
        result = check(*arguments)
    except UserError as error:
        return None, Check(name, False, str(error))
    return result, Check(name, True, found)
