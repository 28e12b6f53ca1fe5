"""Captions in clustered styles for the synthetic set: the training augmentation of the paper's table 4, without an LLM.

In the paper a multimodal LLM sees captions of a style and writes a caption of another image in this style. Here the
generator of the synthetic set writes it, in the true style of one of these captions; the clustering does not use the
true styles.
"""

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset, List, Value
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from ..benchmarks.columns import with_column
from ..synthetic.captions import CAPTION_STYLES, write_caption
from ..synthetic.dataset import synthetic_caption_styles
from ..synthetic.people import NUM_OUTFITS, SYNTHETIC_SEED, describe_person, describe_shot
from .clustering import cluster
from .neutralize import neutralize
from .style_encoder import StyleEncoder, minilm_folder

EXEMPLARS = 8  # captions nearest to the center of a style
_DIMENSIONS = 50


class FoundStyles(NamedTuple):
    """Result of a search for styles.

    Attributes:
        groups: for each style, the indices of the captions nearest to its center.
        facts: text encoder, number of styles, and a hash of the partition of the captions, for the report.
    """

    groups: list[list[int]]
    facts: dict[str, str | int]


def with_styled_captions(
    rows: Dataset, method: str, seed: int, unbalanced: bool = False
) -> tuple[Dataset, dict[str, str | int]]:
    """Adds a column `styled_captions`: one more caption per image, in a style drawn from a clustering.

    Args:
        rows: a complete split of the synthetic set, in its order.
        method: a method of `clustering.cluster`.
        seed: random seed of the clustering and of the drawn styles.
        unbalanced: cluster only a tenth of the captions of every second annotator. On equally many captions of each,
            K-means and agglomerative clustering find the same partition.

    Returns:
        The rows, and the facts of `FoundStyles`.
    """
    captions = [caption for texts in rows["captions"] for caption in texts]
    annotators = [style for styles in synthetic_caption_styles(rows, SYNTHETIC_SEED) for style in styles]
    rare = set(sorted(set(annotators))[1::2]) if unbalanced else set()
    drawn = random.Random(f"{seed}/annotators")
    chosen = [row for row, name in enumerate(annotators) if name not in rare or drawn.random() < 0.1]
    styles = find_styles([captions[row] for row in chosen], method, seed)
    seen: Counter[int] = Counter()
    written = []
    for person_id, outfit_id in zip(rows["person_id"], rows["outfit_id"], strict=True):
        outfit, shot = outfit_id % NUM_OUTFITS, seen[outfit_id]
        seen[outfit_id] += 1
        rng = random.Random(f"{seed}/{person_id}/{outfit}/{shot}/styled")
        annotator = CAPTION_STYLES[annotators[chosen[rng.choice(rng.choice(styles.groups))]]]
        person = describe_person(SYNTHETIC_SEED, person_id)
        photo = describe_shot(SYNTHETIC_SEED, person_id, outfit, shot)
        written.append([write_caption(annotator, person.traits, person.outfits[outfit], photo, rng)])
    return with_column(rows, "styled_captions", written, List(Value("string"))), styles.facts


def find_styles(captions: Sequence[str], method: str, seed: int) -> FoundStyles:
    """Clusters captions by the embeddings of their neutral wordings."""
    vectors, encoder = caption_vectors([neutralize(caption) for caption in captions], seed)
    labels = cluster(vectors, method, seed=seed).labels
    facts: dict[str, str | int] = {
        "encoder": encoder,
        "clusters": int(labels.max()) + 1,
        "partition": hashlib.sha256(labels.astype(np.int32).tobytes()).hexdigest()[:16],
    }
    return FoundStyles(exemplars(vectors, labels), facts)


def caption_vectors(neutral: Sequence[str], seed: int) -> tuple[NDArray, str]:
    """Embeds neutral captions, [N, d], by MiniLM where its package is installed; returns the name of the encoder too.

    Otherwise by TF-IDF of words and word pairs.
    """
    if (folder := minilm_folder()) is not None:
        return StyleEncoder.load(str(folder)).embed(neutral), "all-MiniLM-L6-v2"
    counts = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(neutral)
    if counts.shape[1] > _DIMENSIONS:
        counts = TruncatedSVD(_DIMENSIONS, random_state=seed).fit_transform(counts)
    return np.asarray(counts if isinstance(counts, np.ndarray) else counts.toarray(), dtype=np.float32), "TF-IDF"


def partition_notes(found: Mapping[str, Sequence[Mapping[str, str | int]]]) -> list[str]:
    """Writes sentences for a report: the text encoder, and the methods that cannot be compared.

    Args:
        found: the facts of `FoundStyles` by name of the method, one per seed.
    """
    encoders = sorted({str(facts["encoder"]) for each in found.values() for facts in each})
    notes = [f"Text encoder of the styles: {', '.join(encoders)}."] if encoders else []
    for (name, facts), (other, others) in itertools.combinations(found.items(), 2):
        equal = sum(one["partition"] == two["partition"] for one, two in zip(facts, others, strict=False))
        if equal:
            seeds = min(len(facts), len(others))
            verdict = "cannot tell" if equal == seeds else "hard to tell"
            notes.append(f"{name} and {other}: {verdict}, they find the same styles in {equal} of {seeds} seeds.")
    return notes


def exemplars(vectors: NDArray, labels: NDArray) -> list[list[int]]:
    """Returns for each cluster the indices of the captions nearest to its center."""
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distance = np.linalg.norm(vectors[members] - vectors[members].mean(axis=0), axis=1)
        found.append(members[distance.argsort(kind="stable")[:EXEMPLARS]].tolist())
    return found
