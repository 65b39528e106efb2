"""Which worker of a run goes to which node of an allocation, and gets which GPUs.

Depends on the configuration and the number of nodes only, so that the command that
writes a submission script and the scheduler inside the job come to the same result.

With GPUs, roles fill the nodes one after the other (trainer, reference, generation):
they share a node only where their numbers leave no other way, and a GPU only where
there is a single one. Without, the nodes are divided between those who train and those
who generate.
"""

from __future__ import annotations

from dataclasses import dataclass

from areal.api.alloc_mode import ModelAllocation
from areal.api.cli_args import SchedulingStrategyType

from areal_cppo.config.experiment import CPPOConfig
from areal_cppo.config.resources import gpus, shares_one_gpu
from areal_cppo.errors import UserError

TRAINER, REFERENCE, GENERATION = "actor", "ref", "rollout"  # AReaL's names of roles


@dataclass(frozen=True)
class Place:
    """Where one worker runs.

    Attributes
    ----------
    node
        Index of the node in the allocation, from 0.
    gpus
        Indices among the GPUs that the job has on this node; empty without GPUs.
    cpus
        Cores that the worker asks for.
    """

    node: int
    gpus: tuple[int, ...]
    cpus: int


@dataclass(frozen=True)
class Layout:
    """The places of all workers, by role and rank.

    Roles that are colocated with another aren't in it: they take the other's places.
    """

    nodes: int
    gpus_per_node: int
    places: dict[str, tuple[Place, ...]]

    def nodes_of(self, role: str) -> list[int]:
        """Indices of the nodes that workers of `role` run on, sorted."""
        return sorted({place.node for place in self.places.get(role, ())})

    def cpus_per_node(self) -> int:
        """Cores that the workers of the fullest node ask for."""
        asked = [0] * self.nodes
        for places in self.places.values():
            for place in places:
                asked[place.node] += place.cpus
        return max(asked)


@dataclass(frozen=True)
class _Role:
    workers: int
    gpus: int  # of each worker
    cpus: int


def make_layout(
    config: CPPOConfig, nodes: int, generation_nodes: int | None = None
) -> Layout:
    """Place every worker of `config` on `nodes` nodes.

    Parameters
    ----------
    config
        The experiment; a node has `cluster.n_gpus_per_node` GPUs.
    nodes
        Of the allocation.
    generation_nodes
        How many of them generate. With GPUs this follows from the backends and is only
        compared; without, the default is one for each server, but not all.

    Raises
    ------
    UserError
        The configuration needs another number of nodes, or leaves GPUs or nodes idle.
    """
    if nodes < 1:
        raise UserError(f"--nodes: expected a number >= 1, found {nodes}")
    roles = _roles(config)
    if config.cluster.n_gpus_per_node:
        layout = _by_gpus(config, roles, nodes)
        found = len(layout.nodes_of(GENERATION))
        if generation_nodes not in (None, found):
            raise UserError(
                f"--generation-nodes: expected {found}, as rollout.backend="
                f"{config.rollout.backend} on nodes of {layout.gpus_per_node} GPUs has "
                f"it, found {generation_nodes}; change rollout.backend, or leave the "
                "option out"
            )
        return layout
    return _by_nodes(roles, nodes, generation_nodes)


def _roles(config: CPPOConfig) -> dict[str, _Role]:
    """Roles with workers of their own, in the order in which they are placed."""
    engines = {TRAINER: config.actor}
    if config.uses_reference:
        engines[REFERENCE] = config.ref
    engines[GENERATION] = config.rollout
    roles = {}
    for name, engine in engines.items():
        strategy = SchedulingStrategyType(engine.scheduling_strategy.type)
        if strategy == SchedulingStrategyType.colocation:
            continue
        parallel = ModelAllocation.from_str(engine.backend, name=name).parallel
        spec = engine.scheduling_spec[0]
        if name == GENERATION:  # one worker a server
            size = parallel.tp_size * parallel.pp_size
            roles[name] = _Role(parallel.dp_size, size, spec.cpu * size)
        else:  # one worker a rank
            roles[name] = _Role(parallel.world_size, 1, spec.cpu)
    return roles


def _by_gpus(config: CPPOConfig, roles: dict[str, _Role], nodes: int) -> Layout:
    per_node = config.cluster.n_gpus_per_node
    if nodes == 1 and shares_one_gpu(config):
        places = {name: (Place(0, (0,), role.cpus),) for name, role in roles.items()}
        return Layout(nodes, per_node, places)
    taken = {name: number for name, number in gpus(config).items() if number}
    used, there = sum(taken.values()), nodes * per_node
    if used != there:
        parts = " + ".join(f"{name} {number}" for name, number in taken.items())
        if used % per_node == 0:
            fix = f"use --nodes {used // per_node}, or change"
        else:
            fix = "change --nodes, cluster.n_gpus_per_node or"
        raise UserError(
            f"--nodes: expected {used} GPUs ({parts}), found {nodes} node(s) x "
            f"{per_node} GPUs = {there}; {fix} the numbers after d in actor.backend "
            "and rollout.backend"
        )
    places: dict[str, tuple[Place, ...]] = {}
    slot = 0  # the next free GPU, counted over all nodes
    for name, role in roles.items():
        placed = []
        for _ in range(role.workers):
            first = slot % per_node
            if first + role.gpus > per_node:
                raise UserError(
                    f"{name}.backend: expected servers that fit into what is left of "
                    f"a node of {per_node} GPUs, found {role.gpus} GPUs each with "
                    f"{per_node - first} left; change the numbers after d, t and p"
                )
            owned = tuple(range(first, first + role.gpus))
            placed.append(Place(slot // per_node, owned, role.cpus))
            slot += role.gpus
        places[name] = tuple(placed)
    return Layout(nodes, per_node, places)


def _by_nodes(
    roles: dict[str, _Role], nodes: int, generation_nodes: int | None
) -> Layout:
    servers = roles[GENERATION].workers if GENERATION in roles else 0
    ranks = sum(role.workers for name, role in roles.items() if name != GENERATION)
    if nodes == 1 or not servers or not ranks:
        if generation_nodes not in (None, 1) or nodes > max(servers + ranks, 1):
            raise UserError(
                f"--nodes: expected at least a worker a node, found {nodes} node(s) "
                f"and --generation-nodes {generation_nodes}; use --nodes 1"
            )
        return Layout(nodes, 0, {n: _spread(r, 0, nodes) for n, r in roles.items()})
    generating = generation_nodes or min(servers, nodes - 1)
    training = nodes - generating
    if generating > servers or not 1 <= training <= ranks:
        raise UserError(
            f"--nodes: expected at least a worker a node, found {nodes} nodes, "
            f"{max(training, 0)} for {ranks} trainer process(es) and {generating} for "
            f"{servers} generation server(s); change --nodes, --generation-nodes or "
            "the numbers after d in actor.backend and rollout.backend"
        )
    places = {
        name: _spread(role, training, generating)
        if name == GENERATION
        else _spread(role, 0, training)
        for name, role in roles.items()
    }
    return Layout(nodes, 0, places)


def _spread(role: _Role, first: int, nodes: int) -> tuple[Place, ...]:
    """Workers in blocks, as many on each of `nodes` nodes as on the others."""
    return tuple(
        Place(first + rank * nodes // role.workers, (), role.cpus)
        for rank in range(role.workers)
    )
