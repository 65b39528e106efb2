"""SGLang's settings as AReaL declares them, and those it leaves out.

AReaL turns every field of its `SGLangConfig` into a command-line flag of its own
launcher of SGLang, which takes any flag that SGLang takes. A field added by a subclass
is passed on in the same way; unset, it is left out.
"""

from dataclasses import dataclass, field

from areal.api.cli_args import SGLangConfig


@dataclass
class GenerationServerConfig(SGLangConfig):
    """AReaL's SGLang settings and a few more that matter without a GPU."""

    device: str | None = field(
        default=None,
        metadata={"help": "cpu or cuda; unset: what SGLang finds."},
    )
    grammar_backend: str | None = field(
        default=None,
        metadata={"help": "Constrained decoding; none leaves out its imports."},
    )
    max_total_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens in the key-value cache; unset: mem_fraction_static decides."
        },
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
        if self.max_total_tokens is not None and self.max_total_tokens < 1:
            raise ValueError(
                "sglang.max_total_tokens: expected at least 1 or null, got "
                f"{self.max_total_tokens}"
            )


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
