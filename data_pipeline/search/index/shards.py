"""Vectors of an indexing run that is under way, in files of a few hundred, so that a run that was stopped goes on."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather

from .sources import KEY_COLUMNS

SHARD_SIZE = 256  # images; what a run that is killed loses at most, in each process
Key = tuple[str, int, int, str]
"""Path, size, time and digest of the description of an image: while they stay, so does its vector."""


class Shards:
    """The finished part of an indexing run, in a folder of its own.

    A run embeds a list of images, the plan, cut into shards. A run that starts with the same plan makes only the
    shards that are missing, with the same images in the same batches, so that every bit of the result is the same. If
    the images changed meanwhile there is a new plan, of what no shard holds yet; all shards are used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, wanted: Sequence[Key]) -> tuple[list[Key], int]:
        """What is to be embedded of `wanted` (sorted), and the number of the first shard of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*"):
            leftover.unlink()
        file = self.folder / "plan.json"
        last: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"first": 0, "digest": ""}
        plan = self._without_finished(wanted, last["first"])
        if _digest(plan) != last["digest"]:
            last["first"] = max((number + 1 for number, _ in self._files()), default=0)
            plan = self._without_finished(wanted, last["first"])
            last["digest"] = _digest(plan)
            _write(file, json.dumps(last).encode())
        return plan, last["first"]

    def finished(self, number: int) -> bool:
        """Whether a shard is there."""
        return self._file(number).is_file()

    def write(
        self, number: int, keys: Sequence[Key], vectors: np.ndarray, reasons: Sequence[str | None], wide: np.ndarray
    ) -> None:
        """Writes a shard; it is there complete or not at all.

        Args:
            vectors: float32 [len(keys), dimensions]; anything where there is a reason.
            reasons: why an image could not be read, or None.
            wide: bool [len(keys)], whether an image is wider than it is high.
        """
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        columns = {name: pa.array(values) for name, values in zip(KEY_COLUMNS, zip(*keys, strict=True), strict=True)}
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        columns["reason"] = pa.array(reasons, pa.string())
        columns["wide"] = pa.array(wide)
        sink = pa.BufferOutputStream()
        pyarrow.feather.write_feather(pa.table(columns), sink, compression="uncompressed")
        _write(self._file(number), sink.getvalue())

    def read(self) -> Iterator[pa.Table]:
        """All shards, mapped into memory: the key columns, `vector`, `reason` (or null), `wide`."""
        for _, file in self._files():
            yield pyarrow.feather.read_table(file, memory_map=True)

    def _without_finished(self, wanted: Sequence[Key], first: int) -> list[Key]:
        """`wanted` without what is in a shard before number `first`."""
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
    """The key of every row of an index's or a shard's table."""
    return list(zip(*(table[name].to_pylist() for name in KEY_COLUMNS), strict=True))


def _digest(plan: Sequence[Key]) -> str:
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def _write(file: Path, content: bytes | pa.Buffer) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
