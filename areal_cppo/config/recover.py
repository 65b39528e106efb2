"""When a run writes checkpoints, when it is started again, and when it gives up."""

from __future__ import annotations

from dataclasses import dataclass

from areal.api.cli_args import RecoverConfig

from areal_cppo.core.checks import Number, check_fields, setting


@dataclass
class CheckpointConfig(RecoverConfig):
    """AReaL's block `recover`, kept by CPPO's own checkpoints.

    `freq_epochs`, `freq_steps` and `freq_secs` say how often one is written; without
    any of them it is after every step. There is always one after the last step.

    With mode `on` or `auto` a run goes on from the newest whole checkpoint of its
    `run_dir`, and is started again after a failure, `retries` times without a new step
    in between.
    """

    keep: int = setting(
        2,
        Number(1, integer=True),
        "Checkpoints kept to go on from; the oldest goes when a new one is whole.",
    )
    grace_seconds: float = setting(
        20.0,
        Number(0),
        "After SIGTERM: seconds in which a checkpoint is still written.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_fields(self, "recover.")

    @property
    def on(self) -> bool:
        """Whether checkpoints are written and read."""
        return self.mode in ("on", "auto")


@dataclass
class WatchdogConfig:
    """What ends a run that gets nowhere; the defaults are for large models."""

    start_seconds: float = setting(
        3600.0, Number(0, low_open=True), "Longest start-up, in seconds."
    )
    step_seconds: float = setting(
        7200.0, Number(0, low_open=True), "Longest train step, in seconds."
    )
    end_seconds: float = setting(
        3600.0, Number(0, low_open=True), "Longest time after the last step, seconds."
    )
    silent_seconds: float = setting(
        120.0,
        Number(0, low_open=True),
        "Longest silence of the controller or a worker, in seconds.",
    )
    failed_groups: int = setting(
        64,
        Number(1, integer=True),
        "Groups in a row of which none can be trained on.",
    )
    nonfinite_steps: int = setting(
        3,
        Number(1, integer=True),
        "Steps in a row whose loss or gradient is not finite.",
    )

    def __post_init__(self):
        check_fields(self, "watchdog.")
