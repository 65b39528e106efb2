"""What every test needs: a CPU-only torchvision that imports, one thread, no hub."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()

# Shared machines stall: how long an example took says nothing about the code.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
