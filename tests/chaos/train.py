"""`areal-cppo train` with the controller of `tests.chaos.controller`."""

from __future__ import annotations

import sys

from areal_cppo.cli.main import main
from areal_cppo.run import supervisor

if __name__ == "__main__":
    supervisor.CONTROLLER = "tests.chaos.controller"
    sys.exit(main(["train", *sys.argv[1:]]))
