"""Relevance feedback (Rocchio, 1971): images that are marked right or wrong move the vector of a query."""

import numpy as np
from numpy.typing import NDArray

RIGHT_WEIGHT, WRONG_WEIGHT = 0.75, 0.15  # of Rocchio's formula in Manning et al., Introduction to IR, section 9.1.1


def move_query(
    query: NDArray,
    right: NDArray,
    wrong: NDArray,
    right_weight: float = RIGHT_WEIGHT,
    wrong_weight: float = WRONG_WEIGHT,
) -> NDArray:
    """Returns q + b mean(right) - c mean(wrong), float32 [dimensions]; identity and clothing half have unit length.

    Args:
        query: vector without β, [dimensions].
        right, wrong: vectors of the marked images, [R, dimensions] and [W, dimensions]; R or W may be 0.
        right_weight, wrong_weight: b and c.
    """
    moved = query.astype(np.float64)
    for weight, marked in ((right_weight, right), (-wrong_weight, wrong)):
        if len(marked):
            moved = moved + weight * np.mean(marked, axis=0)
    halves = moved.reshape(2, -1)  # [2, projection_dim]
    halves /= np.maximum(np.linalg.norm(halves, axis=1, keepdims=True), 1e-12)
    return halves.reshape(-1).astype(np.float32)
