"""The objectives by name: a new one is a file of its own and a line here.

`areal_cppo.step.objectives.base.Objective` says what is in the file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What has to be known of an objective before its module is imported.

    Attributes
    ----------
    title
        For people.
    module
        Holds its `OBJECTIVE`, a subclass of `Objective`, and its `METRICS`; empty: it
        adds nothing to the policy loss, and no view is ever computed.
    settings
        Its block of the configuration, a field of `CPPOActorConfig` with the properties
        that `CPLConfig` ends with; empty: it has none.
    policy_loss
        Whether the policy loss counts as well.
    """

    title: str
    module: str = ""
    settings: str = ""
    policy_loss: bool = True


_CPL = "areal_cppo.step.objectives.cpl"
_PAPO = "areal_cppo.step.objectives.papo"
_VPPO = "areal_cppo.step.objectives.vppo"
_DVRP = "areal_cppo.step.objectives.dvrp"
_PGPO = "areal_cppo.step.objectives.pgpo"

OBJECTIVES = {
    "cppo": Entry("CPPO: GRPO with the Contrastive Perception Loss", _CPL, "cpl"),
    "grpo": Entry("GRPO, without the Contrastive Perception Loss"),
    "cpl": Entry(
        "The Contrastive Perception Loss alone, without a policy loss",
        _CPL,
        "cpl",
        policy_loss=False,
    ),
    "papo": Entry("PAPO: GRPO with the Implicit Perception Loss", _PAPO, "papo"),
    "vppo": Entry("VPPO: GRPO on the tokens that depend on the image", _VPPO, "vppo"),
    "dvrp": Entry(
        "DVRP: GRPO with two views, one to depend on, one to withstand", _DVRP, "dvrp"
    ),
    "pgpo": Entry(
        "PGPO: GRPO with more weight on the tokens that depend on the image",
        _PGPO,
        "pgpo",
    ),
}
