"""The configuration of an experiment: what it is, and how it is read.

Everything that AReaL's own YAML understands is understood here too; CPPO adds
`actor.objective`, `actor.view_seed`, the block `actor.cpl`
(`areal_cppo.core.CPLConfig`), `actor.papo`, `.vppo`, `.dvrp` and `.pgpo`, each of
which counts with that objective only, and the blocks of `areal_cppo.config.blocks`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from areal.api.alloc_mode import AllocationValidationError
from areal.api.cli_args import PPOConfig, RecoverConfig, save_config
from areal.utils import name_resolve
from areal.utils.stats_logger import StatsLogger
from typing_extensions import override

from areal_cppo.checks import COUNT, Number, check_fields, setting
from areal_cppo.config import GOES_ON, TASK_PROMPTS
from areal_cppo.config.augmentation import AugmentationConfig
from areal_cppo.config.blocks import (
    DataConfig,
    GroupsConfig,
    HeldoutConfig,
    RewardConfig,
    SamplesConfig,
    ValidationConfig,
)
from areal_cppo.config.engines import (
    CPPOActorConfig,
    CPPORolloutConfig,
    GenerationServerConfig,
    allocation,
)
from areal_cppo.config.files import check_file, compose
from areal_cppo.config.keys import refused
from areal_cppo.config.operation import WatchdogConfig
from areal_cppo.config.reading import build


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
        COUNT,
        "Checkpoints kept to go on from; the oldest goes when a new one is whole.",
    )
    grace_seconds: float = setting(
        20.0,
        Number(0),
        "After SIGTERM: seconds in which a checkpoint is still written.",
    )

    @override
    def __post_init__(self):
        super().__post_init__()
        check_fields(self, "recover.")

    @property
    def on(self) -> bool:
        """Whether checkpoints are written and read."""
        return self.mode in GOES_ON


@dataclass
class CPPOConfig(PPOConfig):
    """A CPPO experiment: AReaL's PPO experiment with the CPPO actor."""

    actor: CPPOActorConfig = field(default_factory=CPPOActorConfig)
    ref: CPPOActorConfig | None = field(default=None)
    rollout: CPPORolloutConfig = field(default_factory=CPPORolloutConfig)
    sglang: GenerationServerConfig = field(default_factory=GenerationServerConfig)
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    recover: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    run_dir: str = field(
        default="",
        metadata={
            "help": "Folder of config.yaml, metrics.jsonl, summary.json and report; "
            "empty: <cluster.fileroot>/<experiment_name>/<trial_name>."
        },
    )

    @override
    def __post_init__(self):
        super().__post_init__()
        self.actor.check_layout()
        _check_servers(self.rollout.backend)
        if self.actor.kl_ctl > 0 and self.ref is None:
            # AReaL would take 0 for the reference policy's log-probs.
            raise ValueError(
                f"actor.kl_ctl: expected 0 without a reference policy, found "
                f"{self.actor.kl_ctl:g}; set it to 0, or add a block ref as in "
                "configs/qwen2_5_vl-3b_virl39k_published.yaml"
            )
        if not self.run_dir:
            self.run_dir = str(
                Path(self.cluster.fileroot) / self.experiment_name / self.trial_name
            )

    def steps_on(self, problems: int) -> int:
        """Train steps of a run on so many problems."""
        steps = problems // self.train_dataset.batch_size * self.total_train_epochs
        return min(steps, self.total_train_steps or steps)

    @property
    def uses_reference(self) -> bool:
        """Whether there is a reference policy, as AReaL decides it."""
        return self.ref is not None and self.actor.kl_ctl > 0

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that is let in.

        Of a synthetic task: so long with the task's own model, with another not
        shorter.
        """
        return TASK_PROMPTS.get(self.data.source, self.data.max_prompt_tokens)


def _check_servers(backend: str) -> None:
    try:
        found = allocation(backend).backend
    except (AllocationValidationError, ValueError):
        found = None
    if found != "sglang":
        raise ValueError(
            f"rollout.backend: expected sglang:d<number of servers>, found "
            f"{backend!r}; set sglang:d4, say"
        )


def workflow_kwargs(config: CPPOConfig, reward_fn: str) -> dict[str, Any]:
    """What `CPPOWorkflow` is made with; `reward_fn` is an import string."""
    return {
        "reward_fn": reward_fn,
        "gconfig": config.gconfig,
        "tokenizer": config.tokenizer_path,
        "processor": config.tokenizer_path,
        "reward": asdict(config.reward),
        "groups": asdict(config.groups),
        "augmentation": asdict(config.augmentation),
        "seed": config.actor.view_seed,
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "context_length": config.sglang.context_length,
    }


def load_config(
    path: str | Path, overrides: list[str] | None = None, *, begins: bool = True
) -> CPPOConfig:
    """Read a YAML file, apply `key=value` overrides, resolve and check.

    Parameters
    ----------
    begins
        Whether a run begins with it: then AReaL's name service is set up, and the
        configuration written where AReaL keeps its logs. Else nothing is written.

    Raises
    ------
    UserError
        The file is missing or isn't YAML, a key is unknown, a value is of the wrong
        type or out of range: one line that says which.
    """
    path = check_file(path)
    with refused(path, overrides or []):
        config = build(compose(path, overrides or []), CPPOConfig)
        if not begins:
            return config
        try:
            name_resolve.reconfigure(config.cluster.name_resolve)
        except OSError as error:
            raise ValueError(
                "cluster.name_resolve.nfs_record_root: expected a folder that can be "
                f"written, found {config.cluster.name_resolve.nfs_record_root}: "
                f"{error.strerror}; set it, or run_dir, where it is by default"
            ) from error
        except Exception as error:  # whatever a service's client raises
            raise ValueError(
                "cluster.name_resolve: expected a service that answers "
                f"(type={config.cluster.name_resolve.type}), found "
                f"{type(error).__name__}: {error}; start it, or set type=nfs"
            ) from error
        save_config(config, StatsLogger.get_log_path(config.stats_logger))
    return config
