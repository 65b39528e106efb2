"""The text of a submission script.

The script is one batch job. On its first node it starts `areal-cppo train`, which
starts the workers as steps of the same job
(`areal_cppo.cluster.allocation`). The script itself only passes on signals
and decides whether the job is queued again.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from importlib.resources import files

from areal_cppo.cluster.layout import (
    GENERATION,
    REFERENCE,
    TRAINER,
    Layout,
)

CONTAINERS = ("none", "apptainer", "pyxis")
_ROLES = {TRAINER: "trainer", REFERENCE: "reference", GENERATION: "generation"}


@dataclass(frozen=True)
class Submission:
    """What a script is written from; the command's options, checked.

    Attributes
    ----------
    config
        Path of the YAML file, as the job will open it from the folder it is submitted
        from.
    overrides
        `key=value`, passed to `areal-cppo train`.
    layout
        Where the workers go.
    cpus
        Cores of a node.
    notice_seconds
        How long before the time limit the run is asked to stop.
    requeues
        How often the job may be started again.
    setup
        Shell lines to run first, as `module load cuda`.
    image, mounts
        Of the container; mounts as `HOST:CONTAINER`, separated by commas.
    written_by
        The command, for the script's head.
    """

    config: str
    overrides: tuple[str, ...]
    layout: Layout
    job_name: str
    time: str
    cpus: int
    notice_seconds: int
    requeues: int
    runs: str = "runs"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: tuple[str, ...] = field(default=())
    container: str = "none"
    image: str = ""
    mounts: str = ""
    written_by: str = "areal-cppo slurm"

    @property
    def run_dir(self) -> str | None:
        """The run's folder where the user named it; else it follows the job's id."""
        named = [word for word in self.overrides if word.startswith("run_dir=")]
        return named[-1].partition("=")[2] if named else None


def fixed_settings(nodes: int) -> list[str]:
    """The `key=value` that a job of so many nodes sets whatever the file says."""
    return [
        f"cluster.n_nodes={nodes}",
        "scheduler.type=allocation",
        "recover.mode=on",
    ]


def write_script(job: Submission) -> str:
    """The whole script."""
    parts = [
        "#!/bin/bash",
        *_head(job),
        *_directives(job),
        "set -euo pipefail",
        "",
        *_settings(job),
        "",
        _part("environment.sh"),
        *_container(job),
        _part("run.sh"),
    ]
    return "\n".join(parts)


def _part(name: str) -> str:
    return files("areal_cppo.cluster").joinpath("parts", name).read_text("utf-8")


def _head(job: Submission) -> list[str]:
    layout = job.layout
    nodes = "1 node" if layout.nodes == 1 else f"{layout.nodes} nodes"
    lines = [f"# CPPO on {nodes}, {_gpus_of(layout)}. Written by:"]
    lines += [f"#   {job.written_by}", "#"]
    for role, places in layout.places.items():
        on = _numbers(layout.nodes_of(role))
        what = "server(s)" if role == GENERATION else "process(es)"
        gpus = sum(len(place.gpus) for place in places)
        using = f", {gpus} GPU(s)" if gpus else ""
        lines.append(f"# {_ROLES[role]}: node {on}, {len(places)} {what}{using}")
    return lines


def _gpus_of(layout: Layout) -> str:
    count = layout.gpus_per_node
    return f"{count} GPU{'s' * (count > 1)} each" if count else "no GPUs"


def _numbers(nodes: list[int]) -> str:
    """`[0, 1, 2]` as `1-3`; an allocation's nodes are consecutive here."""
    first, last = nodes[0] + 1, nodes[-1] + 1
    return str(first) if first == last else f"{first}-{last}"


def _directives(job: Submission) -> list[str]:
    options = [
        f"--job-name={job.job_name}",
        f"--nodes={job.layout.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.cpus}",
    ]
    if job.layout.gpus_per_node:
        options.append(f"--gres=gpu:{job.layout.gpus_per_node}")
    options += ["--mem=0", "--exclusive", f"--time={job.time}"]
    for name in ("partition", "account", "qos"):
        value = getattr(job, name)
        if value:
            options.append(f"--{name}={value}")
    options += [
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{job.notice_seconds}",
        "--export=ALL",
        "--output=logs/%x-%j.out",  # sbatch wants the folder to be there
    ]
    return [f"#SBATCH {option}" for option in options]


def _settings(job: Submission) -> list[str]:
    """The variables of this job: all that may want to be changed by hand."""
    own = [word for word in job.overrides if not word.startswith("run_dir=")]
    run_dir = job.run_dir
    if run_dir is None:
        # A requeued job keeps its id.
        where = f'{shlex.quote(job.runs)}/"$SLURM_JOB_NAME-$SLURM_JOB_ID"'
    else:
        where = shlex.quote(run_dir)
    lines = [
        f"config={shlex.quote(job.config)}",
        f"run_dir={where}",
        "settings=(",
        *(
            f"    {shlex.quote(word)}"
            for word in [*fixed_settings(job.layout.nodes), *own]
        ),
        ")",
        f"max_restarts={job.requeues}",
    ]
    if job.layout.nodes > 1:
        count = len(job.layout.nodes_of(GENERATION))
        lines.append(f"export AREAL_CPPO_GENERATION_NODES={count}")
    lines += ["", 'cd "$SLURM_SUBMIT_DIR"']
    return lines + list(job.setup)


def _container(job: Submission) -> list[str]:
    if job.container == "none":
        return ["controller=() # before the controller's command: no container", ""]
    settings = [f"image={shlex.quote(job.image)}", f"mounts={shlex.quote(job.mounts)}"]
    if job.container == "apptainer":
        nv = "--nv" if job.layout.gpus_per_node else ""
        settings.append(f"gpu_option={nv}")
    return [
        *settings,
        _part("container.sh"),
        _part(f"{job.container}.sh"),
    ]
