"""AReaL's Ray scheduler: what its workers start is ours, and guarded.

Since 2.0 its workers are RPC servers, as elsewhere, and a server of generation may span
nodes. Its parts on the other nodes would be started by Ray's actors, without a token,
and with that of the first on their command line.
"""

from __future__ import annotations

from areal.infra.scheduler.ray import RayScheduler

from areal_cppo.cluster.worker import StartsOwnWorkers
from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.errors import UserError


class RayActorsScheduler(StartsOwnWorkers, RayScheduler):
    """AReaL's `RayScheduler` for `scheduler.type: ray`.

    Raises
    ------
    UserError
        A server wouldn't fit a node.
    """

    def __init__(self, config: CPPOConfig):
        parallel, cluster = config.rollout.parallel, config.cluster
        gpus = parallel.tp_size * parallel.pp_size
        if gpus > max(cluster.n_gpus_per_node, 1):
            raise UserError(
                "rollout.backend: expected servers that fit a node (cluster."
                f"n_gpus_per_node={cluster.n_gpus_per_node}) with scheduler.type=ray, "
                f"found {gpus} GPUs each; set fewer of t and p, and more of d"
            )
        super().__init__(exp_config=config)
