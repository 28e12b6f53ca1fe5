"""Matches the file names of benchmarks that encode person, camera and outfit in their paths."""

import re
from collections.abc import Iterator, Sequence

from .benchmark import Source


def match_names(
    source: Source, folders: Sequence[tuple[str, str, str]], example: str
) -> Iterator[tuple[str, str, re.Match[str]]]:
    """Yields path, split and match of each image, in the order of the folders, sorted within each folder.

    `folders` are tuples of a folder, the split of its images, and a pattern for the path below the folder. A path that
    does not match raises a `ValueError` with the valid path `example`.
    """
    for folder, split, pattern in folders:
        for path in source.images.images(folder):
            match = re.fullmatch(pattern, path[len(folder) + 1 :], re.ASCII)
            if match is None:
                raise ValueError(
                    f"{source.images.root / path}: the file name has no person number; expected {folder}/{example}"
                )
            yield path, split, match
