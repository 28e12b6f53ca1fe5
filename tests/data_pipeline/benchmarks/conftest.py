"""Fixtures of the loader tests: a loader with its own cache, and a small CUHK-PEDES."""

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import DatasetDict

from data_pipeline import load_person_dataset

from . import layouts


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., DatasetDict]:
    """`load_person_dataset` with a cache of its own."""
    return lambda name, folder, **options: load_person_dataset(name, folder, cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def cuhk(tmp_path: Path) -> Path:
    return layouts.write_cuhk_pedes(tmp_path / "cuhk")
