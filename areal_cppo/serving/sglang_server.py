"""AReaL's SGLang server, listening where the run may, with nothing private in its logs.

`python -m areal_cppo.serving.sglang_server` takes the arguments of AReaL's launcher,
`areal.experimental.inference_service.sglang.launch_server`, and starts the same server.
SGLang spawns its scheduler, which imports the main module again, and so is narrowed as
well: its TCPStore would otherwise listen on every address.
"""

from __future__ import annotations

import os
import sys

from areal_cppo.serving.listen import narrow_this_process
from areal_cppo.serving.redaction import redact_logs

MODULE = "areal_cppo.serving.sglang_server"


def main() -> None:
    from areal.experimental.inference_service.sglang.launch_server import (
        areal_launch_server,
    )
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree
    from sglang.srt.utils.common import suppress_noisy_warnings

    suppress_noisy_warnings()
    try:
        areal_launch_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ in ("__main__", "__mp_main__"):
    narrow_this_process()
    redact_logs()
if __name__ == "__main__":
    main()
