"""Find and end all the processes of a server or of a run.

A killed controller leaves its workers behind, and a killed SGLang server its scheduler
and its detokenizer; init adopts them, so that a walk down the process tree no longer
finds them. Every process that a run starts therefore inherits a marker variable.
"""

import os
import time
from collections.abc import Iterable

import psutil

RUN_ID_VARIABLE = "AREAL_CPPO_RUN_ID"

_POLL_SECONDS = 0.05
# SIGKILL is not instant for a process that is reading from a slow disk.
_KILL_SECONDS = 5.0
# Something may be started while the run is being ended: look again, but not for ever.
_MAX_PASSES = 5


def run_environment(run_id: str) -> dict[str, str]:
    """Variables that mark a process, and all that it starts, as part of a run.

    SGLang renames its processes with setproctitle, which by default writes the new
    title over the environment that other processes can read; SPT_NOENV forbids that.
    """
    if not run_id:
        raise ValueError("expected a run id of one character or more, got ''")
    return {RUN_ID_VARIABLE: run_id, "SPT_NOENV": "1"}


def descendants(pid: int) -> list[psutil.Process]:
    """Children of `pid`, their children, and so on; empty if it is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def processes_of_run(run_id: str) -> list[psutil.Process]:
    """Living processes of this user that carry the marker of the run.

    A process is marked if it had the marker in its environment when it was started;
    changing `os.environ` afterwards marks its children, not itself.
    """
    marked = []
    # psutil's own iterator remembers processes, and takes a new one for a dead one
    # whose number it has.
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            if process.environ().get(RUN_ID_VARIABLE) == run_id and _alive(process):
                marked.append(process)
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
    return marked


def end_processes(
    processes: Iterable[psutil.Process], grace_seconds: float = 5.0
) -> None:
    """SIGTERM to all at once, SIGKILL to those left after `grace_seconds`."""
    processes = list(processes)
    for process in processes:
        _signal(process, "terminate")
    survivors = _wait(processes, grace_seconds)
    for process in survivors:
        _signal(process, "kill")
    _wait(survivors, _KILL_SECONDS)


def end_process_tree(pid: int, grace_seconds: float = 5.0) -> None:
    """End `pid` and all its descendants, also those that outlive it."""
    try:
        tree = [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return
    tree += descendants(pid)
    end_processes(tree, grace_seconds)


def end_run(
    run_id: str, grace_seconds: float = 5.0, exclude_self: bool = True
) -> list[int]:
    """End every process of a run, wherever in the process tree it is now.

    Parameters
    ----------
    run_id
        Value of the marker variable.
    grace_seconds
        Time between SIGTERM and SIGKILL.
    exclude_self
        Spare this process and those that started it.

    Returns
    -------
    list[int]
        Ids of the processes that were found and ended.
    """
    spared = _self_and_ancestors() if exclude_self else set()
    ended: list[int] = []
    for _ in range(_MAX_PASSES):
        found = [p for p in processes_of_run(run_id) if p.pid not in spared]
        if not found:
            break
        ended += [process.pid for process in found]
        end_processes(found, grace_seconds)
    return sorted(set(ended))


def _self_and_ancestors() -> set[int]:
    return {os.getpid(), *(p.pid for p in psutil.Process().parents())}


def _signal(process: psutil.Process, action: str) -> None:
    try:
        getattr(process, action)()
    except psutil.Error:  # gone already, or not ours to end
        pass


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those of `processes` that are still alive after at most `seconds`."""
    deadline = time.monotonic() + seconds
    alive = [process for process in processes if _alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        alive = [process for process in alive if _alive(process)]
    return alive


def _alive(process: psutil.Process) -> bool:
    """Running; a zombie counts as gone, since some container inits never reap."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
