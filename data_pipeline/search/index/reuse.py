"""Finds the vectors in the last generation of an index that can be reused."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from .embedding import content_digest
from .opened import OpenedIndex
from .shards import Key, contents_of, keys_of
from .sources import GallerySource


def reusable_rows(index: Path, last: OpenedIndex, source: GallerySource, moved_from: Path | None) -> dict[Key, int]:
    """Returns the images of `source` that need no embedding, each with the row of its vector in the last generation.

    Size and description are equal, and
    1. path and modification time are equal, or
    2. the image had the same path below `moved_from`, and its modification time is equal or its digest is unknown, or
    3. the content is equal: the file was copied, renamed or moved. Only these files are read.

    Raises `ValueError` if no image of the index was below `moved_from`.
    """
    old, contents, keys = keys_of(last.table), contents_of(last.table), keys_of(source.table)
    row_of = {key: row for row, key in enumerate(old)}
    rows = {key: row_of[key] for key in keys if key in row_of}
    if moved_from is not None:
        rows |= _moved(index, last, old, contents, keys, Path(os.path.realpath(moved_from)))
    by_content = {(key[1], key[3], content): row for row, (key, content) in enumerate(zip(old, contents, strict=True))}
    sizes = {(size, text) for size, text, content in by_content if content is not None}
    unknown = [key for key in keys if key not in rows and (key[1], key[3]) in sizes]
    root = index.absolute() / source.root
    with ThreadPoolExecutor() as pool:
        for key, content in zip(unknown, pool.map(lambda key: content_digest(root / key[0]), unknown), strict=True):
            if content is not None and (row := by_content.get((key[1], key[3], content))) is not None:
                rows[key] = row
    return rows


def rows_with_tokens(last: OpenedIndex | None, rows: dict[Key, int]) -> dict[Key, int]:
    """Returns the reusable rows of an index with tokens: none if the last generation has no tokens."""
    return {} if last is None or last.tokens is None else rows


def _moved(
    index: Path, last: OpenedIndex, old: list[Key], contents: list[str | None], keys: list[Key], folder: Path
) -> dict[Key, int]:
    """Returns the images that had the same path below a folder, with their rows."""
    root = last.manifest.image_root(index)
    files = [PurePath(os.path.normpath(root / key[0])) for key in old]
    moved = {file.relative_to(folder).as_posix(): row for row, file in enumerate(files) if file.is_relative_to(folder)}
    if not moved:
        raise ValueError(f"moved_from {folder}: no image of the index was in it; the images of {index} were in {root}")
    rows = {key: moved[key[0]] for key in keys if key[0] in moved}
    return {
        key: row
        for key, row in rows.items()
        if key[1::2] == old[row][1::2] and (contents[row] is None or key[2] == old[row][2])
    }
