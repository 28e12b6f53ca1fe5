"""Shards: the vectors and tokens of an unfinished indexing run, in small files, so that an interrupted run resumes."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather

from modeling_bdam.files import atomic_path, write_json

from .column_names import ASPECT, CONTENT, KEY_COLUMNS

SHARD_SIZE = 256  # images; at most as many are lost per process when a run is killed
Key = tuple[str, int, int, str]
"""Path, size, modification time and description digest of an image."""


class Shards:
    """The finished shards of an indexing run, in one folder.

    The plan is the list of images to embed, divided into shards. A restarted run with the same plan embeds only the
    missing shards, in the same batches, so that the result is bitwise equal to an uninterrupted run. If the images
    changed in between, a new plan lists the images that no finished shard contains.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, wanted: Sequence[Key]) -> tuple[list[Key], int]:
        """Returns the images of `wanted` (sorted) to embed, and the number of their first shard."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*"):  # temporary files of a killed run
            leftover.unlink()
        file = self.folder / "plan.json"
        last: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"first": 0, "digest": ""}
        plan = self._without_finished(wanted, last["first"])
        if _digest(plan) != last["digest"]:
            first = max((number + 1 for number, _ in self._files()), default=0)
            plan = self._without_finished(wanted, first)
            last = {"first": first, "digest": _digest(plan)}
            write_json(file, last)
        return plan, last["first"]

    def finished(self, number: int) -> bool:
        """Whether a shard is complete."""
        return self._file(number).is_file()

    def write(
        self,
        number: int,
        keys: Sequence[Key],
        vectors: np.ndarray,
        reasons: Sequence[str | None],
        contents: Sequence[str | None],
        aspects: np.ndarray,
        tokens: np.ndarray | None = None,
    ) -> None:
        """Writes a shard atomically; see `EmbeddedBatch` for the columns."""
        columns = {name: pa.array(values) for name, values in zip(KEY_COLUMNS, zip(*keys, strict=True), strict=True)}
        for name, rows in (("vector", vectors), ("tokens", tokens)):
            if rows is not None:
                flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, len(flat) // len(keys))
        columns[CONTENT] = pa.array(contents, pa.string())
        columns["reason"] = pa.array(reasons, pa.string())
        columns[ASPECT] = pa.array(aspects, pa.float32())
        with atomic_path(self._file(number)) as file:
            pyarrow.feather.write_feather(pa.table(columns), file, compression="uncompressed")

    def read(self) -> Iterator[pa.Table]:
        """Yields all shards, memory-mapped: the key columns, `vector`, `tokens`, `_content`, `reason`, `_aspect`."""
        for _, file in self._files():
            yield pyarrow.feather.read_table(file, memory_map=True)

    def _without_finished(self, wanted: Sequence[Key], first: int) -> list[Key]:
        """Removes the images that are in a shard before number `first`."""
        done: set[Key] = set()
        for number, file in self._files():
            if number < first:
                done |= set(keys_of(pyarrow.feather.read_table(file, columns=list(KEY_COLUMNS))))
        return [key for key in wanted if key not in done]

    def _files(self) -> list[tuple[int, Path]]:
        return [(int(file.stem.split("-")[1]), file) for file in sorted(self.folder.glob("shard-*.arrow"))]

    def _file(self, number: int) -> Path:
        return self.folder / f"shard-{number:08d}.arrow"


def keys_of(table: pa.Table) -> list[Key]:
    """Returns the key of each row of the table of an index or a shard."""
    return list(zip(*(table[name].to_pylist() for name in KEY_COLUMNS), strict=True))


def contents_of(table: pa.Table) -> list[str | None]:
    """Returns the digest of the embedded file of each row; None in an index of an earlier version."""
    return table[CONTENT].to_pylist() if CONTENT in table.column_names else [None] * len(table)


def aspects_of(table: pa.Table) -> list[float]:
    """Returns the width divided by the height of each image; NaN in an index or a shard of an earlier version."""
    return table[ASPECT].to_pylist() if ASPECT in table.column_names else [float("nan")] * len(table)


def _digest(plan: Sequence[Key]) -> str:
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()
