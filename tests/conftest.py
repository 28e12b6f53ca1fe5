"""What the tests of more than one package need."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    """A `LoopbackHub` that serves; see tests/loopback_hub.py. Tests are no package, so it is imported by its path."""
    spec = importlib.util.spec_from_file_location("loopback_hub", Path(__file__).with_name("loopback_hub.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback_hub"] = module
    spec.loader.exec_module(module)
    with module.LoopbackHub() as served:
        yield served
