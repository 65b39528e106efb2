"""Blocks of the YAML about how a run is operated: speed, servers, what ends it."""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.checks import (
    COUNT,
    Bool,
    Number,
    check_fields,
    setting,
)
from areal_cppo.config.blocks import SECONDS


@dataclass
class SpeedConfig:
    """`actor.speed`: what makes a train step cheap, each switchable.

    All of it is exact: the loss and its gradient are the same with any of them off
    (tests/step/test_speed.py). They can be switched off to see what each buys, which is
    what `areal-cppo bench train-step` does.
    """

    share_prompts: bool = setting(
        True,
        Bool(),
        "compute the prompt of a group, its images included, once per row of tokens, "
        "not once per response",
    )
    share_images: bool = setting(
        True,
        Bool(),
        "encode an image once per row of tokens, however many prompts hold it",
    )
    response_logits: bool = setting(
        True,
        Bool(),
        "logits of response tokens only, a few at a time; false: the prompts' too, all "
        "at once",
    )
    gate_first: bool = setting(
        True,
        Bool(),
        "only responses past the gate enter the view passes; false: all with an image",
    )
    reuse_proximal: bool = setting(
        True,
        Bool(),
        "with one mini-batch per update the proximal policy is the one being updated: "
        "its log-probs come from the update's own forward pass; false: from one before",
    )

    def __post_init__(self) -> None:
        check_fields(self, "actor.speed.")


@dataclass
class ServersConfig:
    """`rollout.servers`: what is done about generation servers that fail, and who may
    speak to them."""

    token: bool = setting(
        True, Bool(), "Requests to servers carry a random token of the run"
    )
    restarts: int = setting(
        3,
        Number(low=0, integer=True),
        "How often a server is started again before it counts as lost",
    )
    healthy_seconds: float = setting(
        600.0, SECONDS, "After so long without a failure the count of restarts is 0"
    )
    fewest: int = setting(1, COUNT, "The run ends when fewer servers are left")
    health_seconds: float = setting(2.0, SECONDS, "Time between two looks at a server")
    hang_seconds: float = setting(
        60.0, SECONDS, "A server that was silent for so long is ended"
    )
    update_seconds: float = setting(
        600.0, SECONDS, "Longest time in which a server loads new weights"
    )
    request_attempts: int = setting(
        4, COUNT, "How often a failing request is sent, in all"
    )
    nonsense: int = setting(
        3, COUNT, "A server is ended after so many unusable answers in a row"
    )

    def __post_init__(self) -> None:
        check_fields(self, "rollout.servers.")


@dataclass
class WatchdogConfig:
    """`watchdog`: what ends a run that gets nowhere; defaults are for large models."""

    start_seconds: float = setting(3600.0, SECONDS, "Longest start-up, in seconds.")
    step_seconds: float = setting(7200.0, SECONDS, "Longest train step, in seconds.")
    end_seconds: float = setting(
        3600.0, SECONDS, "Longest time after the last step, seconds."
    )
    silent_seconds: float = setting(
        120.0, SECONDS, "Longest silence of the controller or a worker, in seconds."
    )
    failed_groups: int = setting(
        64, COUNT, "Groups in a row of which none can be trained on."
    )
    nonfinite_steps: int = setting(
        3, COUNT, "Steps in a row whose loss or gradient is not finite."
    )

    def __post_init__(self) -> None:
        check_fields(self, "watchdog.")
