"""Shared by the tests of the generation server."""

import psutil
import pytest


@pytest.fixture
def gone():
    """Whether a process has ended; a zombie that nobody reaps has."""

    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return is_gone
