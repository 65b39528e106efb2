"""What every test needs: a CPU-only torchvision that imports, one thread, no hub."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from areal_cppo.serving.cpu import enable_in_this_process

enable_in_this_process()
