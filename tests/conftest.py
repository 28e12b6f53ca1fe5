"""Fixtures that several test folders share."""

import os
from collections.abc import Iterator

import pytest

# Before torch is imported; subprocesses inherit it. The models of the tests are tiny, so more threads cost more than
# they save, and threads that spin while they wait slow down other processes on the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .command import Command
from .loopback_hub import LoopbackHub


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """A running loopback Hub, see tests/loopback_hub.py."""
    with LoopbackHub() as served:
        yield served


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`run_t2i_reid.py` with tiny settings and one cache of the synthetic data, see tests/command.py."""
    return Command(tmp_path_factory.mktemp("command"))
