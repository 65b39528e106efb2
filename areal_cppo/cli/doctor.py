"""`areal-cppo doctor`: what is ready, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from areal_cppo.doctor.check import Check, as_table
from areal_cppo.doctor.machine import (
    check_checkpoint,
    machine_checks,
    torch_sees_gpus,
)
from areal_cppo.doctor.packages import (
    check_flash_attn,
    check_python,
    package_checks,
)
from areal_cppo.errors import UserError

_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


def doctor(config: str | None = None, overrides: list[str] | None = None) -> int:
    """Print the table; 0 if the demo, or the configuration, can run on this machine.

    Args:
        config: a YAML file; its model, data, resources and disk are looked at too.
        overrides: its `key=value` overrides.
    """
    checks = all_checks()
    what = "the demo"
    if config is not None:
        what = Path(config).stem
        checks += config_checks(config, overrides or [])
    print(as_table(checks))
    lacking = [check.name for check in checks if check.lacking]
    if lacking:
        print(f"\n{what} cannot run here yet: {', '.join(lacking)}")
        return 1
    command = "areal-cppo demo (or make demo)"
    if config is None and torch_sees_gpus():
        print("\nfor a recipe: areal-cppo doctor --config configs/FILE.yaml")
        return 0
    if config is not None:
        command = f"areal-cppo train --config {config} --dry-run"
    print(f"\n{what} can run here: {command}")
    return 0


def all_checks() -> list[Check]:
    """The rows that do not depend on a configuration, in the order of the table."""
    return [
        check_python(),
        *package_checks(),
        check_flash_attn(),
        *machine_checks(),
        check_shim(_PACKAGE_FOLDER / "serving" / "shim"),
        check_checkpoint(_PACKAGE_FOLDER / "triangles" / "checkpoint"),
    ]


def check_shim(folder: Path) -> Check:
    """What torchvision and SGLang need where there is no GPU."""
    ready = (folder / "sitecustomize.py").is_file()
    return Check(
        "CPU placeholders",
        ready,
        str(folder) if ready else f"no sitecustomize.py in {folder}",
        "a complete clone, or reinstall areal-cppo",
    )


def config_checks(path: str, overrides: list[str]) -> list[Check]:
    """A row for each thing that a run with this configuration needs.

    Raises:
        UserError: the file can't be read as a configuration.
    """
    from areal_cppo.serving.cpu import enable_in_this_process

    enable_in_this_process()  # areal imports torchvision
    from areal_cppo.config.experiment import load_config
    from areal_cppo.config.resources import check_resources
    from areal_cppo.run import preflight

    config = load_config(path, overrides)
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
