"""People, cameras and outfits that the names of files and folders tell."""

import re
from collections.abc import Iterator, Sequence

from .benchmark import Source


def match_names(
    source: Source, folders: Sequence[tuple[str, str, str]], example: str
) -> Iterator[tuple[str, str, re.Match[str]]]:
    """The images below some folders, with what their names say.

    Args:
        folders: each a folder, the split of its images, and a pattern that matches the whole path below the folder.
        example: a good path, for the error.

    Returns:
        path, split and match of each image, in the order of the folders, sorted within.

    Raises:
        ValueError: a path that its pattern does not match.
    """
    for folder, split, pattern in folders:
        for path in source.images.images(folder):
            match = re.fullmatch(pattern, path[len(folder) + 1 :], re.ASCII)
            if match is None:
                raise ValueError(
                    f"{source.images.root / path}: the name does not say who it is; names are like {folder}/{example}"
                )
            yield path, split, match
