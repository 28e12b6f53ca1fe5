"""Captions in clustered styles for the synthetic set: the training augmentation of the paper's table 4, without an LLM.

In the paper a multimodal LLM sees captions of a style and writes a caption of another image in this style. Here the
generator of the synthetic set writes it, in the true style of one of these captions; the clustering does not use the
true styles.
"""

import random
from collections import Counter

import numpy as np
from datasets import Dataset, List, Value
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from ..benchmarks.columns import with_column
from ..synthetic.captions import write_caption
from ..synthetic.dataset import synthetic_caption_styles
from ..synthetic.people import NUM_OUTFITS, SYNTHETIC_SEED, describe_person, describe_shot
from .clustering import cluster
from .neutralize import neutralize

EXEMPLARS = 8  # captions nearest to the center of a style
_DIMENSIONS = 50


def with_styled_captions(rows: Dataset, method: str, seed: int) -> Dataset:
    """Adds a column `styled_captions`: one more caption per image, in a style drawn from a clustering.

    Args:
        rows: a complete split of the synthetic set, in its order.
        method: a method of `clustering.cluster`.
        seed: random seed of the clustering and of the drawn styles.
    """
    captions = [caption for texts in rows["captions"] for caption in texts]
    annotators = [style for styles in synthetic_caption_styles(rows, SYNTHETIC_SEED) for style in styles]
    styles = exemplars(caption_vectors(captions, seed), method, seed)
    seen: Counter[int] = Counter()
    written = []
    for person_id, outfit_id in zip(rows["person_id"], rows["outfit_id"], strict=True):
        outfit, shot = outfit_id % NUM_OUTFITS, seen[outfit_id]
        seen[outfit_id] += 1
        rng = random.Random(f"{seed}/{person_id}/{outfit}/{shot}/styled")
        annotator = annotators[rng.choice(rng.choice(styles))]
        person = describe_person(SYNTHETIC_SEED, person_id)
        photo = describe_shot(SYNTHETIC_SEED, person_id, outfit, shot)
        written.append([write_caption(annotator, person.traits, person.outfits[outfit], photo, rng)])
    return with_column(rows, "styled_captions", written, List(Value("string")))


def caption_vectors(captions: list[str], seed: int) -> NDArray:
    """Embeds the writing style of captions, [N, d]: TF-IDF of words and word pairs of the neutralized captions."""
    counts = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(map(neutralize, captions))
    if counts.shape[1] > _DIMENSIONS:
        counts = TruncatedSVD(_DIMENSIONS, random_state=seed).fit_transform(counts)
    return np.asarray(counts if isinstance(counts, np.ndarray) else counts.toarray(), dtype=np.float32)


def exemplars(vectors: NDArray, method: str, seed: int) -> list[list[int]]:
    """Returns for each cluster the indices of the captions nearest to its center."""
    labels = cluster(vectors, method, seed=seed).labels
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distance = np.linalg.norm(vectors[members] - vectors[members].mean(axis=0), axis=1)
        found.append(members[distance.argsort(kind="stable")[:EXEMPLARS]].tolist())
    return found
