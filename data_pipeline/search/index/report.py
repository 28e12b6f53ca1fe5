"""The outcome of an indexing run."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..stores.store import IndexType

# Widths divided by heights from which an image is probably no crop of one person: 0.3 to 0.5 is usual
SHAPES = {"frames (wider than high)": 1.2, "squares": 0.8, "portraits (nearly square)": 0.7}


@dataclass(frozen=True)
class IndexReport:
    """The outcome of an indexing run, or of a planned one.

    Attributes:
        images: images in the index.
        embedded: images whose vectors are new in this generation.
        removed: images of the last generation that are deleted or changed.
        unreadable: paths that are not in the index, each with the reason.
        shapes: number of images of the index with each unusual shape of `SHAPES`; only those that have one.
        index_type: `exact`, `hnsw` or `int8`.
        notes: notes on metadata, descriptions, equal files and the vectors.
        token_bytes: size of the image tokens on the disk; 0 for an index without tokens.
        lost: paths of images of the last generation of which neither file nor content is in the new one.
        is_planned: whether the run was not carried out (`dry_run`).
    """

    images: int
    embedded: int
    removed: int
    unreadable: list[tuple[str, str]]
    shapes: dict[str, int]
    index_type: IndexType
    notes: list[str]
    token_bytes: int = 0
    lost: list[str] = field(default_factory=list)
    is_planned: bool = False


def count_shapes(aspects: NDArray[np.float32]) -> dict[str, int]:
    """Counts the unusual shapes among widths divided by heights; NaN for unknown ones."""
    counts, below = {}, np.inf
    for name, least in SHAPES.items():
        counts[name], below = int(np.sum((aspects >= least) & (aspects < below))), least
    return {name: count for name, count in counts.items() if count}
