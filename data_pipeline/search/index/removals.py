"""Refuses an indexing run that would remove many images, such as one of a wrong folder or a half-mounted disk."""

import os
from collections.abc import Collection
from pathlib import Path

from ...benchmarks.text_files import first_of
from .opened import OpenedIndex

_LARGEST_LOSS = 0.2  # share of the images


def lost_images(
    index: Path, last: OpenedIndex | None, root: str, paths: Collection[str], kept: Collection[int]
) -> list[str]:
    """Returns the images of the last generation of which neither the file nor the content is among the new images.

    Args:
        index: folder of the index.
        last: the last generation.
        root: folder of the new images.
        paths: the new images, relative to `root`.
        kept: rows of the last generation with reused vectors.
    """
    if last is None:
        return []
    old = last.table["path"].to_pylist()
    before = last.manifest.image_root(index)
    present, folder = set(paths), index.absolute() / root
    if before != folder:
        present = {os.path.normpath(folder / path) for path in paths}
        old = [os.path.normpath(before / path) for path in old]
    reused = set(kept)
    return [path for row, path in enumerate(old) if path not in present and row not in reused]


def check_removals(index: Path, last: OpenedIndex | None, root: str, lost: list[str], is_known: bool) -> None:
    """Raises `ValueError` if a run loses more than a fifth of the images, or images of another folder.

    `is_known` says that the user named the other folder, as `moved_from` or with `add`.
    """
    if last is None or not lost:
        return
    before, count = last.manifest.image_root(index), len(last.table)
    is_other = before != index.absolute() / root
    reaches_further = is_other or any(os.path.isabs(path) for path in lost)
    if len(lost) <= _LARGEST_LOSS * count and (is_known or not reaches_further):
        return
    reason = f", because its images were in {before}" if is_other else ""
    raise ValueError(
        f"{index}: this run would remove {len(lost)} of {count} images ({first_of(lost, 3)}){reason}; check the folder "
        "of the images, add a second folder with --add, or confirm with --allow-removals (allow_removals=True); "
        "--dry-run shows the consequences"
    )
