"""Captions in the styles of a clustering, on the synthetic set."""

import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import adjusted_rand_score

from data_pipeline import load_synthetic, synthetic_caption_styles
from data_pipeline.styles import style_captions
from data_pipeline.styles.clustering import cluster
from data_pipeline.styles.neutralize import neutralize
from data_pipeline.styles.style_captions import EXEMPLARS, caption_vectors, exemplars, partition_notes
from data_pipeline.styles.style_encoder import minilm_folder

from .tiny_text_encoders import save_sentence_encoder


@pytest.fixture(autouse=True)
def no_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_captions, "minilm_folder", lambda: None)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cache: Path = tmp_path_factory.mktemp("data")
    return load_synthetic(40, 1, 1, image_size=(32, 16), cache_dir=str(cache))["train"]


def test_caption_vectors_separate_annotators(rows: Dataset) -> None:
    captions = [neutralize(caption) for texts in rows["captions"] for caption in texts]
    annotators = [style for styles in synthetic_caption_styles(rows) for style in styles]
    vectors, encoder = caption_vectors(captions, seed=0)
    assert encoder == "TF-IDF"
    assert adjusted_rand_score(annotators, cluster(vectors, "kmeans", seed=0).labels) > 0.7


def test_caption_vectors_use_an_installed_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a person in something", "person, something"]
    save_sentence_encoder(tmp_path, texts)
    monkeypatch.setattr(style_captions, "minilm_folder", lambda: tmp_path)
    vectors, encoder = caption_vectors(texts, seed=0)
    assert vectors.shape == (2, 32) and encoder == "all-MiniLM-L6-v2"
    assert minilm_folder() is None or (minilm_folder() / "model.safetensors").exists()  # type: ignore[operator]


def test_exemplars_are_nearest_to_each_center() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(30, 4)), 50 + rng.normal(size=(30, 4))]).astype(np.float32)
    groups = exemplars(vectors, cluster(vectors).labels)
    assert sorted(len(group) for group in groups) == [EXEMPLARS, EXEMPLARS]
    for group in groups:
        members = range(30) if group[0] < 30 else range(30, 60)
        center = vectors[members].mean(axis=0)
        distance = {row: float(np.linalg.norm(vectors[row] - center)) for row in members}
        assert set(group) == set(sorted(distance, key=distance.__getitem__)[:EXEMPLARS])


@pytest.mark.parametrize("method", ["random", "dbscan"])
def test_with_styled_captions_adds_a_true_caption_by_seed(rows: Dataset, method: str) -> None:
    found = [style_captions.with_styled_captions(rows, method, seed) for seed in (0, 0, 1)]
    first, again, other = (styled["styled_captions"] for styled, _ in found)
    assert all(len(texts) == 1 and texts[0] for texts in first)
    assert list(first) == list(again) and found[0][1] == found[1][1]
    assert list(first) != list(other)
    # The caption describes its own image: a dress is never captioned as trousers.
    for (text,), outfit in zip(first, rows["clothing_description"], strict=True):
        if re.search(r"\bdress\b(?! shoes)", text):
            assert "dress" in outfit


def test_unbalanced_annotators_give_methods_different_partitions(rows: Dataset) -> None:
    facts = {
        method: style_captions.with_styled_captions(rows, method, 0, unbalanced=True)[1]
        for method in ("kmeans", "agglomerative", "dbscan", "hdbscan")
    }
    assert len({found["partition"] for found in facts.values()}) == len(facts)


def test_partition_notes_name_the_encoder_and_equal_methods() -> None:
    def facts(partition: str) -> dict[str, str | int]:
        return {"encoder": "TF-IDF", "clusters": 3, "partition": partition}

    found = {"K-Means": [facts("a"), facts("b")], "GMM": [facts("a"), facts("c")], "Ward": [facts("a"), facts("b")]}
    assert partition_notes({"Without": [], **found}) == [
        "Text encoder of the styles: TF-IDF.",
        "K-Means and GMM: hard to tell, they find the same styles in 1 of 2 seeds.",
        "K-Means and Ward: cannot tell, they find the same styles in 2 of 2 seeds.",
        "GMM and Ward: hard to tell, they find the same styles in 1 of 2 seeds.",
    ]
    assert partition_notes({"Without": []}) == []
