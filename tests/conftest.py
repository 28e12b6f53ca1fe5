"""Fixtures that several test folders share."""

import os
from collections.abc import Iterator

import pytest

# Before torch is imported. The models of the tests are tiny, so a second thread costs more than it saves, and
# several processes that use every core slow each other down. Subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from .command import Command
from .loopback_hub import LoopbackHub


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """A running loopback Hub, see tests/loopback_hub.py."""
    with LoopbackHub() as served:
        yield served


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`run_t2i_reid.py` with tiny settings, see tests/command.py."""
    return Command(tmp_path_factory.mktemp("command"))
