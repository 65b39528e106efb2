"""The conformance tests speak to the session's SGLang server.

    export AREAL_CPPO_SERVER=http://host:port AREAL_CPPO_SERVER_MODEL=DIR
    pytest tests/conformance

aims them at a running server of that model folder. It must run on this machine or share
its disks (new weights are handed over in a folder), and be one that `areal-cppo serve`
started, or have no cache of images (SGLANG_VLM_CACHE_SIZE_MB=0).
"""

import pytest


@pytest.fixture(scope="session")
def server(sglang_server):
    return sglang_server


@pytest.fixture(autouse=True)
def healthy_afterwards(server):
    """Whatever a test sends, the server must be there for the next one."""
    yield
    assert server.healthy()
