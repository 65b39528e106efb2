"""What a worker process does; importing this module imports all that a run needs.

Workers are forked from a server that has imported it (`pool.py`): the imports, some
seconds of one core, are paid once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from multiprocessing import parent_process
from typing import Any

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

import torch  # noqa: E402

from areal_cppo.bench.quiet import quiet  # noqa: E402
from areal_cppo.studies.folder import StudyRunFolder  # noqa: E402

with quiet():  # the server prints where the command's table goes
    from areal_cppo.studies.run import run_study_run


def work(folder: StudyRunFolder, steps_done: Any) -> None:
    """Make a run and end the process, with status 0 or 1.

    Parameters
    ----------
    folder
        The run's; what is printed goes to its log.
    steps_done
        A shared int: steps that are finished.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C ends all
    torch.set_num_threads(1)
    folder.start()
    with folder.log.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())

    def tell(step: int) -> None:
        steps_done.value = step
        if not parent_process().is_alive():
            os._exit(1)  # killed, not stopped: nobody waits for this run

    try:
        run_study_run(folder, tell)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads would be waited for
