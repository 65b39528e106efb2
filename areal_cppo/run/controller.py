"""The process that runs one experiment: AReaL's single controller, with CPPO.

Started by `areal_cppo.run.supervisor`; its arguments are the file descriptor of a pipe,
the configuration and its overrides. On the pipe it says, a JSON object a line, what the
run does, and every few seconds that it is alive; what AReaL prints goes to the run's
log. Exit status: 0 success, 2 a user's mistake, 75 stopped as asked, 1 anything else;
before a non-zero exit it says `error` with one line of text.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from areal_cppo.errors import RunError, UserError
from areal_cppo.serving.cpu import enable_in_this_process, interpreter_environment
from areal_cppo.serving.processes import RUN_ID_VARIABLE, end_run

Say = Callable[..., None]

BEAT_SECONDS = 5.0
_WRAPPERS = re.compile(r"^.*?Engine method '\w+' failed: (?=expected )", re.DOTALL)


def run(
    config_path: str, overrides: list[str], say: Say, inherited: dict[str, str]
) -> None:
    """Run the experiment to its end, from its beginning or from its last checkpoint.

    `inherited` is the environment this process was started with.
    """
    from areal_cppo.config.experiment import load_config
    from areal_cppo.patches.contracts import check_upstream
    from areal_cppo.run.experiment import Experiment
    from areal_cppo.run.preflight import check_settings, check_start
    from areal_cppo.serving.redaction import redact_logs

    config = load_config(config_path, overrides)
    if config.cluster.n_gpus_per_node:
        # This process may have no GPU, but the workers it starts have one.
        os.environ.clear()
        os.environ.update(inherited)
    redact_logs()
    check_settings(config)
    check_upstream()
    check_start(config)
    Experiment(config, say).run()


def dry_run(config_path: str, overrides: list[str], say: Say) -> None:
    """Check what can be checked without starting anything, and say what would be."""
    from areal_cppo.config import TASK_NAMES
    from areal_cppo.config.experiment import load_config
    from areal_cppo.config.models import count_parameters
    from areal_cppo.folder import RunFolder
    from areal_cppo.rollout.first_look import try_reward
    from areal_cppo.run.claim import check_new
    from areal_cppo.run.dry_run import describe as describe_plan
    from areal_cppo.run.dry_run import describe_steps
    from areal_cppo.run.preflight import check_settings
    from areal_cppo.tasks.experiment import load_task

    config = load_config(config_path, overrides, begins=False)
    model_config = check_settings(config)
    task = load_task(config, lambda text: say("note", text=text))
    dataset = task.train_dataset()
    problems = task.valid_dataset() if config.validation.every else None
    first = dataset[0]
    lines = try_reward(task.workflow_kwargs, first)
    parameters = count_parameters(config.actor.path)
    lines = [*describe_plan(config, model_config, parameters), *lines]
    if problems is not None:
        used = min(len(problems), config.validation.problems)
        lines.append(f"validation: {used} of {len(problems)} problems")
    elif config.data.source not in TASK_NAMES:
        lines.append("validation: none; valid_dataset.path would give a curve")
    lines.append(f"data: {len(dataset)} problems, each with {', '.join(first)}")
    lines.append(describe_steps(config, len(dataset)))
    try:
        check_new(RunFolder(config.run_dir), config.recover.on)
    except UserError as error:  # it may be meant for another folder
        lines.append(f"warning: {error}")
    for line in lines:
        say("note", text=line)
    say("note", text="nothing was started")


def describe(error: BaseException) -> tuple[int, str]:
    """Exit status and the one line that tells a user what went wrong."""
    from areal_cppo.run.checkpoints import DiskFull, no_space
    from areal_cppo.serving.redaction import redact

    if isinstance(error, UserError | RunError):
        return error.exit_status, redact(str(error))
    if no_space(error) and not isinstance(error, DiskFull):
        return 1, (
            "no space left on the disk of the run's folder: finished steps are kept; "
            "free some space or choose another folder with run_dir=... (demo: --out)"
        )
    if type(error).__name__ == "WorkerFailedError":  # its text quotes the log
        return 1, (
            f"the worker {error.worker_id} died (exit status {error.exit_code}); its "
            "last words are in logs/ of the run's folder"
        )
    text = str(error)
    if type(error).__name__ == "EngineCallError":  # a worker's error, in two wrappers
        text = _WRAPPERS.sub("", text)
    if text == str(error):
        text = f"{type(error).__name__}: {text}"
    return 1, " ".join(redact(text).split())[:400]


def worth_another_try(error: BaseException) -> bool:
    """Whether the run may end otherwise if it is started again as it is."""
    from areal_cppo.rollout.ledger_controller import GaveUp
    from areal_cppo.run.checkpoints import DiskFull, no_space
    from areal_cppo.run.stop import Stopped

    final = UserError, GaveUp, DiskFull, Stopped, KeyboardInterrupt
    return not isinstance(error, final) and not no_space(error)


def main(argv: list[str]) -> NoReturn:
    descriptor, *words = argv
    pipe = os.fdopen(int(descriptor), "w", encoding="utf-8", buffering=1)
    lock = threading.Lock()

    def say(kind: str, **fields: Any) -> None:
        try:
            with lock:
                pipe.write(json.dumps({"kind": kind, **fields}) + "\n")
        except BrokenPipeError:  # the supervisor was killed: end the run in its place
            end_run(os.environ[RUN_ID_VARIABLE], grace_seconds=0.0)
            os._exit(1)

    def beat() -> None:
        while True:
            say("alive")
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    os.environ.update(interpreter_environment(os.environ))
    inherited = dict(os.environ)
    enable_in_this_process()
    try:
        dry = "--dry-run" in words
        config, *overrides = [word for word in words if word != "--dry-run"]
        if dry:
            dry_run(config, overrides, say)
        else:
            run(config, overrides, say, inherited)
    except BaseException as error:
        traceback.print_exc()
        status, text = describe(error)
        say("error", text=text, status=status, restart=worth_another_try(error))
        sys.stderr.flush()
        os._exit(status)  # the supervisor ends whatever is left
    sys.stdout.flush()
    os._exit(0)  # not through atexit handlers that may wait for a dead thread


if __name__ == "__main__":
    main(sys.argv[1:])
