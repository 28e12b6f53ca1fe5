"""Relevance feedback."""

import numpy as np
import pytest

from data_pipeline.search import PersonGallery
from data_pipeline.search.feedback import move_query


def test_move_query_is_the_formula_of_rocchio_on_each_half() -> None:
    """Two halves of two numbers; a loop computes the expected values."""
    query, right, wrong = np.array([1, 0, 0, 1.0]), np.array([[0, 1, 0, 1], [1, 0, 1, 0.0]]), np.array([[0, 1, 1, 0.0]])
    moved = [q + 0.5 * (a + b) / 2 - 0.25 * c for q, a, b, c in zip(query, *right, *wrong, strict=True)]
    expected = [moved[place] / np.hypot(*moved[place // 2 * 2 : place // 2 * 2 + 2]) for place in range(4)]
    assert move_query(query, right, wrong, 0.5, 0.25) == pytest.approx(expected)


@pytest.mark.parametrize(("marks", "sign"), [("right", 1), ("wrong", -1)])
def test_move_query_changes_the_score_of_a_marked_image(exact: PersonGallery, marks: str, sign: int) -> None:
    query, image, none = exact.vector(0), exact.vector(7)[None], np.empty((0, exact.manifest.dimensions), np.float32)
    moved = move_query(query, *((image, none) if marks == "right" else (none, image)))
    assert sign * (image[0] @ moved - image[0] @ query) > 0
    assert np.linalg.norm(moved.reshape(2, -1), axis=1) == pytest.approx([1, 1])
    assert move_query(query, none, none) == pytest.approx(query, abs=1e-6)
