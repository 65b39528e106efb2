"""AReaL's controller of the actor's ranks, which moves images no more than it must.

AReaL hands a batch over to the ranks anew with every call. What is a tensor in a call's
result stays with the rank that made it and is fetched from there by the next call, over
HTTP, as base64 in JSON. So of a step's images

- a group has them once (`SAME_AS`): the first call fetches them from the rollout
  worker, and a rank keeps what it fetched until the step is over;
- `compute_advantages` returns none. The controller puts the rollout worker's own in
  their place, which `ppo_update` finds on the rank;
- AReaL's broadcast, which begins with a copy of everything on the GPU, is left out
  where each rank gets a batch of its own: the actor copies what is needed, when it is.
"""

from __future__ import annotations

from typing import Any

from areal.trainer.ppo.actor import PPOActorController
from typing_extensions import override

from areal_cppo.step.batch import IMAGES


class CPPOActorController(PPOActorController):
    """AReaL's; a batch is a list of groups, their tensors with who made them."""

    @override
    def compute_logp(self, data: list[dict[str, Any]]) -> list[Any]:
        """Log-probs of each group."""
        return self._hand_over("compute_logp", data)

    @override
    def compute_advantages(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The groups with advantages, and with the images that they came with."""
        results = self._hand_over("compute_advantages_only", data)
        return [
            result | {IMAGES: given[IMAGES]} if IMAGES in given else result
            for result, given in zip(results, data, strict=True)
        ]

    @override
    def ppo_update(self, data: list[dict[str, Any]]) -> None:
        """Update on a batch after `compute_advantages`."""
        self._hand_over("ppo_update", data)

    def _hand_over(self, method: str, data: list[dict[str, Any]]) -> Any:
        ranks = self.parallel_strategy
        shared = ranks.world_size != ranks.dp_size  # some ranks have to have the same
        return self._custom_function_call(method, data, rpc_meta={"broadcast": shared})
