"""What of a training configuration says how to look at a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from areal_cppo.config import TASK_NAMES
from areal_cppo.config.blocks import DataConfig
from areal_cppo.core import CPLConfig

DEFAULT_SEED = 1  # of actor.view_seed


@dataclass(frozen=True)
class Settings:
    """The defaults are those of training, without a configuration.

    Attributes
    ----------
    name
        Where they are from, for people.
    cpl
        `actor.cpl`.
    seed
        Of the views.
    temperature
        `actor.temperature`, that of the policy's distribution.
    data
        The block `data`, whose image sizes are used; `None` without a configuration.
    instruction
        What training puts behind each question.
    """

    name: str = "the published setting"
    cpl: CPLConfig = field(default_factory=CPLConfig)
    seed: int = DEFAULT_SEED
    temperature: float = 1.0
    data: DataConfig | None = None
    instruction: str = ""


def read_settings(
    config: str | Path | None, overrides: list[str], seed: int | None = None
) -> Settings:
    """The settings of a configuration's file, or the defaults.

    Raises
    ------
    UserError
        The file is missing or wrong.
    """
    if config is None:
        return Settings(seed=DEFAULT_SEED if seed is None else seed)
    from areal_cppo.config.experiment import load_config

    read = load_config(config, overrides, begins=False)
    return Settings(
        name=Path(config).name,
        cpl=read.actor.cpl,
        seed=read.actor.view_seed if seed is None else seed,
        temperature=read.actor.temperature,
        data=read.data,
        # The synthetic tasks put none behind theirs.
        instruction="" if read.data.source in TASK_NAMES else read.data.instruction,
    )
