"""AReaL's dataclasses of trainer, rollout and generation server, with this package's
settings in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from areal.api.alloc_mode import (
    AllocationValidationError,
    ModelAllocation,
    ParallelStrategy,
)
from areal.api.cli_args import InferenceEngineConfig, PPOActorConfig, SGLangConfig
from areal.utils.constants import PROX_LOGP_METHOD_RECOMPUTE
from typing_extensions import override

from areal_cppo.checks import Choice, Number, check_argument, check_fields, setting
from areal_cppo.config import FLASH_ATTN, KERNELS, SDPA, TORCH_FLASH
from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.config.operation import ServersConfig, SpeedConfig
from areal_cppo.core import (
    CPLConfig,
    DVRPConfig,
    PAPOConfig,
    PGPOConfig,
    VPPOConfig,
)

# Objectives that need a ratio a token, and what comes of one a response.
_TOKEN_LEVEL = {
    "vppo": "tokens that VPPO filters out have a gradient",
    "pgpo": "a response has one advantage and PGPO's weights have no effect",
}
_DIVISOR = Choice(("tokens", "max_tokens"))
_KEPT = Number(0, 100_000_000, integer=True)


@cache  # AReaL builds its grammar anew each time: 40 ms
def allocation(backend: str) -> ModelAllocation:
    """What a `backend` such as `fsdp:d4` says.

    Raises
    ------
    AllocationValidationError, ValueError
        It can't be read.
    """
    return ModelAllocation.from_str(backend)


@dataclass
class CPPOActorConfig(PPOActorConfig):
    """AReaL's actor plus the Contrastive Perception Loss."""

    objective: str = field(
        default="cppo",
        metadata={
            "help": "cppo: policy loss + coef * CPL; grpo: the policy loss alone "
            "(no view is ever computed); cpl: coef * CPL alone; papo: PAPO (arXiv "
            "2507.06448); vppo: VPPO (arXiv 2510.09285); dvrp: DVRP (arXiv "
            "2601.06801); pgpo: PGPO (arXiv 2604.01840).",
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
    dvrp: DVRPConfig = field(default_factory=DVRPConfig)
    pgpo: PGPOConfig = field(default_factory=PGPOConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    loss_divisor: str = setting(
        "tokens",
        _DIVISOR,
        "What the policy loss's sum over tokens is divided by. tokens: their number in "
        "the global batch; max_tokens: the number of responses times max_new_tokens, "
        "however long they are (Dr. GRPO, arXiv 2503.20783).",
    )
    kept_view_tokens: int = setting(
        0,
        _KEPT,
        "With gradient checkpointing: a micro-batch's views of no more tokens than "
        "this, all together, keep what the backward pass needs instead of computing it "
        "again; 0: none do.",
    )
    attn_impl: str = field(
        default=TORCH_FLASH,
        metadata={
            "help": "What computes attention. torch_flash: torch's own flash-attention "
            "2, on GPUs; flash_attention_2: the package flash-attn; sdpa: anywhere.",
            "choices": list(KERNELS),
        },
    )

    @property
    def parallel(self) -> ParallelStrategy:
        """Numbers of ranks, as `backend` says."""
        return allocation(self.backend).parallel

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

    @override
    def should_compute_prox_logp(self) -> bool:
        """Whether AReaL's trainer computes the proximal log-probs before the update."""
        return not self.reuses_proximal and super().should_compute_prox_logp()

    @property
    def uses_cpl(self) -> bool:
        """Whether the loss has the Contrastive Perception Loss."""
        return OBJECTIVES[self.objective].settings == "cpl" and self.cpl.has_effect

    @property
    def uses_views(self) -> bool:
        """Whether a train step computes views at all."""
        if not OBJECTIVES[self.objective].module:
            return False
        return self.objective_settings is None or self.objective_settings.has_effect

    @property
    def objective_settings(
        self,
    ) -> CPLConfig | PAPOConfig | VPPOConfig | DVRPConfig | PGPOConfig | None:
        """The objective's block; None if it has none."""
        block = OBJECTIVES[self.objective].settings
        return getattr(self, block) if block else None

    @property
    def view_responses(self) -> int | None:
        """At most how many responses of a group are compared with views; None: all."""
        settings = self.objective_settings if self.uses_views else None
        return None if settings is None else settings.responses

    @override
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
        check_argument(
            "actor.kept_view_tokens", self.kept_view_tokens, _KEPT, "0 keeps none"
        )
        check_argument(
            "actor.loss_divisor", self.loss_divisor, _DIVISOR, "tokens is AReaL's"
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
        why = _TOKEN_LEVEL.get(self.objective)
        if why and self.importance_sampling_level != "token":
            raise ValueError(
                "actor.importance_sampling_level: expected token with "
                f"actor.objective={self.objective}, found "
                f"{self.importance_sampling_level!r}, in which {why}; set it to token"
            )

    def check_layout(self) -> None:
        """Refuse the layouts in which a step has not been shown to be right.

        Not part of `__post_init__`: a structured config builds its defaults first,
        and `backend` has none.

        Raises
        ------
        ValueError
            In one line. Without views tensor parallelism is AReaL's own affair.
        """
        expected = "actor.backend: expected fsdp:d<number of ranks>"
        try:
            found = allocation(self.backend)
        except (AllocationValidationError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{expected}, found {self.backend!r}: {reason}") from error
        told = f"{expected}, found {self.backend!r}"
        if found.backend != "fsdp":
            raise ValueError(f"{told}; CPPO runs on AReaL's FSDP engine only")
        tensor, context = found.parallel.tp_size, found.parallel.cp_size
        # AReaL's Ulysses is made for flash-attn: otherwise a text model would attend to
        # its own shard only, a Qwen-VL would meet flash-attention with our sdpa mask.
        if self.attn_impl != FLASH_ATTN and context != 1:
            raise ValueError(
                f"{told}: context parallelism (Ulysses), which actor.attn_impl="
                f"{self.attn_impl} lacks; set c1 (more of d instead)"
            )
        for letter, size, kind in (
            ("t", tensor, "tensor parallelism"),
            ("c", context, "context parallelism (Ulysses)"),
        ):
            if self.uses_views and size != 1:
                raise ValueError(
                    f"{told}: {kind}, in which views were never tested; set {letter}1 "
                    "(more of d instead)"
                )
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
class CPPORolloutConfig(InferenceEngineConfig):
    """AReaL's rollout settings plus `servers`."""

    servers: ServersConfig = field(default_factory=ServersConfig)

    @property
    def parallel(self) -> ParallelStrategy:
        """Numbers of servers and of GPUs of each, as `backend` says."""
        return allocation(self.backend).parallel


@dataclass
class GenerationServerConfig(SGLangConfig):
    """AReaL's SGLang settings and a few more that matter without a GPU.

    AReaL turns every field of its `SGLangConfig` into a command-line flag of its own
    launcher of SGLang, which takes any flag that SGLang takes. A field added here is
    passed on in the same way; unset, it is left out.
    """

    disable_radix_cache: bool = field(
        default=False,
        metadata={
            "help": "Compute a prompt anew for each response of its group. AReaL's "
            "default is true. Weight updates empty the cache."
        },
    )
    device: str | None = field(
        default=None,
        metadata={"help": "cpu or cuda; unset: what SGLang finds."},
    )
    grammar_backend: str | None = field(
        default=None,
        metadata={"help": "Constrained decoding; none leaves out its imports."},
    )
    max_total_tokens: int | None = setting(
        None,
        Number(1, integer=True, optional=True),
        "Tokens in the key-value cache; unset: mem_fraction_static decides.",
    )
    sleep_on_idle: bool = field(
        default=False,
        metadata={
            "help": "Wait for requests instead of polling, which keeps a core busy."
        },
    )
    skip_server_warmup: bool = field(
        default=False,
        metadata={"help": "Do not generate once before answering /health."},
    )

    def __post_init__(self) -> None:
        check_fields(self, "sglang.")


# What served the tiny model fastest on two cores that the trainer shares.
CPU_SETTINGS: dict[str, object] = {
    "device": "cpu",
    "dtype": "float32",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_cuda_graph": True,
    "disable_overlap_schedule": True,
    "sleep_on_idle": True,
    "max_running_requests": 64,
    "max_total_tokens": 16384,
    "enable_metrics": False,
    "decode_log_interval": 1_000_000,
}
