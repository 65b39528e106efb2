"""Settings of the block `rollout.servers`."""

from __future__ import annotations

from dataclasses import dataclass

from areal_cppo.core.checks import Bool, Choice, Number, check_fields, setting

_SECONDS = Number(low=0, low_open=True)


@dataclass
class ServersConfig:
    """What is done about generation servers that fail, and who may speak to them."""

    token: bool = setting(
        True, Bool(), "Requests to servers carry a random token of the run"
    )
    restarts: int = setting(
        3,
        Number(low=0, integer=True),
        "How often a server is started again before it counts as lost",
    )
    healthy_seconds: float = setting(
        600.0, _SECONDS, "After so long without a failure the count of restarts is 0"
    )
    fewest: int = setting(
        1, Number(low=1, integer=True), "The run ends when fewer servers are left"
    )
    health_seconds: float = setting(2.0, _SECONDS, "Time between two looks at a server")
    hang_seconds: float = setting(
        60.0, _SECONDS, "A server that was silent for so long is ended"
    )
    update_seconds: float = setting(
        600.0, _SECONDS, "Longest time in which a server loads new weights"
    )
    verify: str = setting(
        "readmission",
        Choice(("never", "readmission", "updates")),
        "When a server's weights are compared with the files: when it comes back, or "
        "after each update too; never: SGLang's word is taken",
    )
    request_attempts: int = setting(
        4, Number(low=1, integer=True), "How often a failing request is sent, in all"
    )
    nonsense: int = setting(
        3,
        Number(low=1, integer=True),
        "A server is ended after so many unusable answers in a row",
    )

    def __post_init__(self):
        check_fields(self, "rollout.servers.")
