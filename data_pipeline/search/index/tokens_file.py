"""The image tokens of a generation in one file, so that re-ranking need not embed its candidates again."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

TOKENS = "tokens.npy"


def write_tokens(folder: Path, chunks: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes tokens, float16 [n, 2L, D] per chunk, to the folder of a generation; `shape` is [count, 2L, D]."""
    with (folder / TOKENS).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)  # `tofile` does not report a full disk


def open_tokens(folder: Path, count: int) -> np.ndarray | None:
    """Maps the tokens of a generation of `count` images into memory, float16 [count, 2L, D]; None if it has none.

    Raises `RuntimeError` for a damaged file.
    """
    file = folder / TOKENS
    try:
        tokens = np.load(file, mmap_mode="r") if file.exists() else None
    except (ValueError, EOFError) as error:
        raise RuntimeError(f"{TOKENS}: {error}") from None
    if tokens is not None and len(tokens) != count:
        raise RuntimeError(f"{TOKENS}: tokens of {len(tokens)} images, the index has {count}")
    return tokens


def token_bytes(shape: tuple[int, ...], count: int) -> int:
    """Returns the size of the tokens of `count` images on the disk."""
    return count * math.prod(shape) * np.dtype(np.float16).itemsize
