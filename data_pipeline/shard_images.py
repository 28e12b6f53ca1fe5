"""Reads single images out of shards, Parquet or tar files, by references such as `a.tar::512:9000`."""

from functools import lru_cache
from typing import Any

MARK = "::"


def parquet_reference(file: str, group: int, row: int) -> str:
    """Returns the reference of the image in a row of a row group of a Parquet file."""
    return f"{file}{MARK}{group}:{row}"


def tar_reference(file: str, offset: int, size: int) -> str:
    """Returns the reference of a member of an uncompressed tar file, from its first byte and its size in bytes."""
    return f"{file}{MARK}{offset}:{size}"


def read_reference(reference: str) -> bytes:
    """Returns the bytes of an image file by its reference; raises `OSError` if the shard is missing or truncated."""
    file, _, place = reference.rpartition(MARK)
    first, _, second = place.partition(":")
    if file.endswith(".parquet"):
        return _group(file, int(first))[int(second)].as_py()
    with open(file, "rb") as shard:
        shard.seek(int(first))
        return shard.read(int(second))


@lru_cache(maxsize=64)
def _parquet(file: str) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, memory_map=True)  # mapped, since forked workers share the position of an open file


@lru_cache(maxsize=2)
def _group(file: str, group: int) -> Any:
    return _parquet(file).read_row_group(group, columns=["image.bytes"]).column("image").combine_chunks().field("bytes")
