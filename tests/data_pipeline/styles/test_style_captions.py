"""Captions in the styles of a clustering, on the synthetic set."""

import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import adjusted_rand_score

from data_pipeline import load_synthetic, synthetic_caption_styles
from data_pipeline.styles.clustering import cluster
from data_pipeline.styles.style_captions import EXEMPLARS, caption_vectors, exemplars, with_styled_captions


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cache: Path = tmp_path_factory.mktemp("data")
    return load_synthetic(40, 1, 1, image_size=(32, 16), cache_dir=str(cache))["train"]


def test_caption_vectors_separate_annotators(rows: Dataset) -> None:
    captions = [caption for texts in rows["captions"] for caption in texts]
    annotators = [style for styles in synthetic_caption_styles(rows) for style in styles]
    found = cluster(caption_vectors(captions, seed=0), "kmeans", seed=0).labels
    assert adjusted_rand_score(annotators, found) > 0.7


def test_exemplars_are_nearest_to_each_center() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(30, 4)), 50 + rng.normal(size=(30, 4))]).astype(np.float32)
    groups = exemplars(vectors, "dbscan", seed=0)
    assert sorted(len(group) for group in groups) == [EXEMPLARS, EXEMPLARS]
    for group in groups:
        members = range(30) if group[0] < 30 else range(30, 60)
        center = vectors[members].mean(axis=0)
        distance = {row: float(np.linalg.norm(vectors[row] - center)) for row in members}
        assert set(group) == set(sorted(distance, key=distance.__getitem__)[:EXEMPLARS])


@pytest.mark.parametrize("method", ["random", "dbscan"])
def test_with_styled_captions_adds_a_true_caption_by_seed(rows: Dataset, method: str) -> None:
    first, again, other = (with_styled_captions(rows, method, seed)["styled_captions"] for seed in (0, 0, 1))
    assert all(len(texts) == 1 and texts[0] for texts in first)
    assert list(first) == list(again)
    assert list(first) != list(other)
    # The caption describes its own image: a dress is never captioned as trousers.
    for (text,), outfit in zip(first, rows["clothing_description"], strict=True):
        if re.search(r"\bdress\b(?! shoes)", text):
            assert "dress" in outfit
