"""CPPO's experiment configuration: AReaL's dataclasses plus `actor.cpl`.

Everything that AReaL's own YAML understands is understood here too; CPPO adds
`actor.objective`, `actor.view_seed`, the block `actor.cpl`
(`areal_cppo.core.CPLConfig`), and `actor.papo` and `actor.vppo`, each of which counts
with that objective only.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from areal.api.cli_args import (
    InferenceEngineConfig,
    PPOActorConfig,
    PPOConfig,
    load_expr_config,
)
from areal.utils.constants import PROX_LOGP_METHOD_RECOMPUTE
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from areal_cppo.config.choices import check_choices
from areal_cppo.config.data import DataConfig
from areal_cppo.config.models import check_layout
from areal_cppo.config.recover import CheckpointConfig, WatchdogConfig
from areal_cppo.config.rewards import RewardConfig
from areal_cppo.config.servers import ServersConfig
from areal_cppo.config.serving import GenerationServerConfig
from areal_cppo.config.speed import SpeedConfig
from areal_cppo.core import CPLConfig, PAPOConfig, VPPOConfig
from areal_cppo.core.checks import Choice, Number, check_fields, setting
from areal_cppo.errors import UserError
from areal_cppo.step.attention import FLASH_ATTN, SDPA, TORCH_FLASH
from areal_cppo.tasks.shifts import SHIFTS

OBJECTIVES = ("cppo", "grpo", "cpl", "papo", "vppo")
KERNELS = (SDPA, TORCH_FLASH, FLASH_ATTN)


@dataclass
class CPPOActorConfig(PPOActorConfig):
    """AReaL's actor plus the Contrastive Perception Loss."""

    objective: str = field(
        default="cppo",
        metadata={
            "help": "cppo: policy loss + coef * CPL; grpo: the policy loss alone "
            "(no view is ever computed); cpl: coef * CPL alone; papo: PAPO (arXiv "
            "2507.06448); vppo: VPPO (arXiv 2510.09285).",
            "choices": list(OBJECTIVES),
        },
    )
    view_seed: int = field(
        default=1,
        metadata={"help": "Seed of the views' random draws; usually ${seed}."},
    )
    correct_reward: float = field(
        default=0.5,
        metadata={
            "help": "The metric `accuracy` counts a response as correct when its "
            "reward exceeds this. With 0.9 for the answer and 0.1 for the format: 0.5."
        },
    )
    cpl: CPLConfig = field(default_factory=CPLConfig)
    papo: PAPOConfig = field(default_factory=PAPOConfig)
    vppo: VPPOConfig = field(default_factory=VPPOConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    attn_impl: str = field(
        default=TORCH_FLASH,
        metadata={
            "help": "What computes attention. torch_flash: torch's own flash-attention "
            "2, on GPUs; flash_attention_2: the package flash-attn; sdpa: anywhere.",
            "choices": list(KERNELS),
        },
    )

    @property
    def reuses_proximal(self) -> bool:
        """Whether the update's own forward pass gives the proximal log-probs.

        With one mini-batch the proximal policy, that at the start of the update, is the
        policy of the update's only forward pass. Without the decoupled loss AReaL wants
        the log-probs before; its methods other than `recompute` are its own affair.
        """
        return (
            self.speed.reuse_proximal
            and self.ppo_n_minibatches == 1
            and self.use_decoupled_loss
            and self.prox_logp_method == PROX_LOGP_METHOD_RECOMPUTE
        )

    def should_compute_prox_logp(self) -> bool:
        """Whether AReaL's trainer computes the proximal log-probs before the update."""
        return not self.reuses_proximal and super().should_compute_prox_logp()

    @property
    def uses_cpl(self) -> bool:
        """Whether the loss has the Contrastive Perception Loss."""
        return self.objective in ("cppo", "cpl") and self.cpl.coef > 0

    @property
    def uses_views(self) -> bool:
        """Whether a train step computes views at all."""
        if self.objective == "papo":
            return self.papo.has_effect
        return self.objective == "vppo" or self.uses_cpl

    def __post_init__(self):
        if self.attn_impl not in KERNELS:
            raise ValueError(
                f"actor.attn_impl: expected one of {', '.join(KERNELS)}, found "
                f"{self.attn_impl!r}; set torch_flash on GPUs, or flash_attention_2 "
                "for the package flash-attn (no other keeps packed sequences apart)"
            )
        attention, self.attn_impl = self.attn_impl, SDPA  # AReaL knows not all of ours
        super().__post_init__()
        self.attn_impl = attention
        if attention != SDPA and self.dtype != "bfloat16":
            raise ValueError(
                f"actor.dtype: expected bfloat16 with actor.attn_impl={attention}, "
                f"found {self.dtype}, which flash-attention does not compute in; set "
                "actor.dtype=bfloat16, or actor.attn_impl=sdpa"
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"actor.objective: expected one of {', '.join(OBJECTIVES)}, found "
                f"{self.objective!r}"
            )
        if self.objective == "cpl" and self.cpl.coef == 0:
            raise ValueError(
                "actor.cpl.coef: expected a number > 0 with actor.objective=cpl, found "
                "0, which leaves nothing to train on; set it to 0.01"
            )
        if self.objective == "vppo" and self.importance_sampling_level != "token":
            raise ValueError(
                "actor.importance_sampling_level: expected token with "
                f"actor.objective=vppo, found {self.importance_sampling_level!r}, in "
                "which tokens that VPPO filters out have a gradient; set it to token"
            )

    def check_layout(self) -> None:
        """Refuse the layouts in which views have not been shown to be right.

        Not part of `__post_init__`: a structured config builds its defaults first,
        and `backend` has none.
        """
        check_layout(self.backend, self.attn_impl, uses_views=self.uses_views)
        if self.mb_spec.granularity != 1:
            raise ValueError(
                "actor.mb_spec.granularity: expected 1, found "
                f"{self.mb_spec.granularity}; responses are packed by their prompts"
            )
        if self.uses_views and self.enable_tree_training:
            raise ValueError(
                "actor.enable_tree_training: expected false, found true; AReaL's tree "
                "packing carries no images"
            )


@dataclass
class HeldoutConfig:
    """Evaluation on held-out problems, in the controller's process."""

    size: int = field(
        default=0, metadata={"help": "Number of problems; 0 turns it off."}
    )
    every: int = field(
        default=0,
        metadata={"help": "Steps between evaluations; 0: before and after only."},
    )
    shift: str = setting(
        "none", Choice(SHIFTS), "how the pictures of a synthetic task differ"
    )

    def __post_init__(self):
        check_fields(self, "heldout.")
        for name in ("size", "every"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"heldout.{name}: expected a number >= 0, found "
                    f"{getattr(self, name)}"
                )


@dataclass
class GroupsConfig:
    """What becomes of a group (the responses to one problem) that lost one."""

    on_failed_response: str = setting(
        "keep",
        Choice(("keep", "drop")),
        "keep: train on the rest of the group; drop: on none of it; counted either way",
    )
    attempts: int = setting(
        3,
        Number(1, integer=True),
        "Times that a problem is handed out before it is given up, if its group is "
        "dropped or fails.",
    )

    def __post_init__(self):
        check_fields(self, "groups.")


@dataclass
class CPPORolloutConfig(InferenceEngineConfig):
    """AReaL's rollout settings plus `servers`."""

    servers: ServersConfig = field(default_factory=ServersConfig)


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
    recover: CheckpointConfig = field(default_factory=CheckpointConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    run_dir: str = field(
        default="",
        metadata={
            "help": "Folder of config.yaml, metrics.jsonl, summary.json and report; "
            "empty: <cluster.fileroot>/<experiment_name>/<trial_name>."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.actor.check_layout()
        check_choices(self)
        fileroot = self.cluster.fileroot
        if shlex.quote(fileroot) != fileroot:
            raise ValueError(
                f"cluster.fileroot: expected a path without spaces or other characters "
                f"that a shell reads, found {fileroot!r}; AReaL's schedulers pass it "
                "through one"
            )
        if not self.run_dir:
            self.run_dir = str(
                Path(self.cluster.fileroot) / self.experiment_name / self.trial_name
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
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "context_length": config.sglang.context_length,
    }


def load_config(path: str | Path, overrides: list[str] | None = None) -> CPPOConfig:
    """Read a YAML file, apply `key=value` overrides, resolve and check.

    Raises
    ------
    UserError
        The file is missing or isn't YAML, a key is unknown, a value is of the wrong
        type or out of range: one line that says which.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"config: expected a YAML file, found none at {path}; "
            "configs/ holds ready ones"
        )
    try:
        config, _ = load_expr_config(
            ["--config", str(path), *map(_forced, overrides or [])], CPPOConfig
        )
    except ConfigKeyError as error:
        raise UserError(f"{path.name}: {_unknown_key(error)}") from error
    except (ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        raise UserError(f"{path.name}: {_one_line(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path.name}: not YAML: {_one_line(error)}") from error
    except Exception as error:  # hydra's own errors share no base class
        if type(error).__module__.startswith("hydra"):
            raise UserError(f"{path.name}: {_one_line(error)}") from error
        raise
    return config


def _forced(override: str) -> str:
    """Let `key=value` set any key of the configuration, also one the file lacks.

    hydra would ask for a `+` there; unknown keys are refused later, by type.
    """
    return override if override[:1] in "+~" else f"++{override}"


def _unknown_key(error: ConfigKeyError) -> str:
    """Say which key is unknown, and which of its neighbours may have been meant."""
    key, owner = str(error.key), error.object_type
    if not is_dataclass(owner):
        return _one_line(error)
    known = [item.name for item in fields(owner)]
    near = get_close_matches(key, known, n=3, cutoff=0.5) or known[:12]
    return (
        f"{error.full_key}: expected a key of {owner.__name__}, found {key!r}; "
        f"did you mean {', '.join(near)}?"
    )


def _one_line(error: Exception) -> str:
    """The part of a (possibly many-lined) error text that names key and cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = [line for line in lines if line.startswith("full_key:")]
    return " ".join(lines[:1] + [f"({key})" for key in keys[:1]])
