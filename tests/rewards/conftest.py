"""Shared by the tests of the rewards."""

import sys
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # reward_functions, for the processes


@pytest.fixture
def gone():
    """Whether a process has ended; a zombie that nobody reaps has."""

    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return is_gone
