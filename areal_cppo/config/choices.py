"""Values that AReaL takes, and fails on, or goes wrong with, once a run has started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from areal.api.alloc_mode import AllocationValidationError, ModelAllocation

from areal_cppo.cluster import SCHEDULERS

if TYPE_CHECKING:
    from areal_cppo.config.experiment import CPPOConfig

UPDATE_MODES = ("disk", "xccl")


def check_choices(config: CPPOConfig) -> None:
    """Refuse what has no meaning here.

    Raises
    ------
    ValueError
        In one line: what was expected, what was found, and how to mend it.
    """
    _check_servers(config.rollout.backend)
    _expect_one_of(
        "actor.weight_update_mode", UPDATE_MODES, config.actor.weight_update_mode
    )
    _expect_one_of("scheduler.type", SCHEDULERS, config.scheduler.type)
    share = config.sglang.mem_fraction_static
    if share is not None and not 0 < share < 1:
        raise ValueError(
            f"sglang.mem_fraction_static: expected a share between 0 and 1, found "
            f"{share}; 0.8 is usual on a GPU of its own"
        )
    lag = config.rollout.max_head_offpolicyness
    if lag < 0:
        raise ValueError(
            f"rollout.max_head_offpolicyness: expected 0 (synchronous) or more, found "
            f"{lag}; 2 is usual"
        )
    if config.actor.kl_ctl > 0 and config.ref is None:
        # AReaL would take 0 for the reference policy's log-probs.
        raise ValueError(
            f"actor.kl_ctl: expected 0 without a reference policy, found "
            f"{config.actor.kl_ctl:g}; set it to 0, or add a block ref as in "
            "configs/qwen2_5_vl-3b_virl39k_published.yaml"
        )


def _check_servers(backend: str) -> None:
    try:
        found = ModelAllocation.from_str(backend, name="rollout").backend
    except (AllocationValidationError, ValueError):
        found = None
    if found != "sglang":
        raise ValueError(
            f"rollout.backend: expected sglang:d<number of servers>, found "
            f"{backend!r}; set sglang:d4, say"
        )


def _expect_one_of(name: str, choices: tuple[str, ...], found: str) -> None:
    if found not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {found}")
