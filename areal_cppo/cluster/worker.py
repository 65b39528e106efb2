"""AReaL's RPC worker, listening where the run may.

`python -m areal_cppo.cluster.worker` takes the arguments of AReaL's own,
`areal.infra.rpc.rpc_server`; `--host` is answered by `areal_cppo.serving.listen`. Who
can reach a worker's port can run any command as the run's user (`docs/security.md`).
"""

from __future__ import annotations

import sys

from areal.infra.rpc import rpc_server

from areal_cppo.serving.listen import narrow_this_process
from areal_cppo.serving.redaction import redact_logs


def main() -> None:
    # AReaL says 0.0.0.0 when one worker starts another; the last --host counts.
    sys.argv += ["--host", narrow_this_process()]
    redact_logs()
    rpc_server.main()


if __name__ == "__main__":
    main()
