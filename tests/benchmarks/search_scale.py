"""A search of many vectors beside one matrix-vector product of numpy: `python tests/benchmarks/search_scale.py`.

Vectors as a model gives them: two halves of length 1, for who somebody is and for what they wear. People come in looks
(many people are alike), have two outfits and 8 images each, so that a query's first ten are the images of one person
in one outfit, then whoever is most alike. Every index is built and searched by the classes that `bdam index` and `bdam
search` use. Exact searches take turns with numpy's product of the same float32 matrix, the others with exact searches;
ratios are of the medians. With `--folder` all is kept: `--timed 0` builds and measures recall, and a second run with
`--queries 0` measures time alone. Wanted: exact at most 1.3 times numpy's product; hnsw 10 times faster than exact at a
recall@10 of 0.98 or more; int8 a quarter of the memory at 0.97 or more; filters exact.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline.search.index.embedding import usable_cores
from data_pipeline.search.stores.faiss_store import APPROXIMATION, VECTORS, FaissStore
from data_pipeline.search.stores.store import IndexType

IMAGES_A_PERSON, OUTFITS, PEOPLE_A_LOOK = 8, 2, 50
# Of a person beside the look, an image beside its person, and a query beside its person, as shares of a unit vector.
PERSON_NOISE, IMAGE_NOISE, QUERY_NOISE = 0.8, 0.6, 0.9
TOP, CHUNK = 10, 50_000


def halves(people: np.ndarray, outfits: np.ndarray, noise: float, width: int, seed: int) -> np.ndarray:
    """Vectors [N, 2 * width] of people in outfits; what depends on neither is drawn from `seed`."""
    vectors = np.empty((len(people), 2, width), dtype=np.float32)
    for half, names in enumerate((people, people * OUTFITS + outfits)):
        looks = _draw(names // PEOPLE_A_LOOK, width, 10 + half)
        persons = looks + PERSON_NOISE * _draw(names, width, 20 + half)
        persons /= np.linalg.norm(persons, axis=1, keepdims=True)
        own = np.random.default_rng((seed, half)).standard_normal(persons.shape, dtype=np.float32) / np.sqrt(width)
        vectors[:, half] = persons + noise * own
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return vectors.reshape(len(people), 2 * width)


def _draw(names: np.ndarray, width: int, kind: int) -> np.ndarray:
    """One vector of about unit length for each name, the same for the same name."""
    known, places = np.unique(names, return_inverse=True)
    drawn = [np.random.default_rng((kind, int(name))).standard_normal(width, dtype=np.float32) for name in known]
    return (np.stack(drawn) / np.sqrt(width))[places]


def gallery(count: int, width: int) -> np.ndarray:
    """`count` images, person by person, [count, 2 * width]."""
    vectors = np.empty((count, 2 * width), dtype=np.float32)
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        vectors[rows] = halves(rows // IMAGES_A_PERSON, rows % OUTFITS, IMAGE_NOISE, width, seed=1000 + start)
    return vectors


Ask = Callable[[np.ndarray], object]


def turns(one: Ask, other: Ask, queries: np.ndarray) -> list[float]:
    """Median seconds of two ways with a query, which take turns."""
    seconds: list[list[float]] = [[], []]
    for query in queries:
        for ask, taken in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            ask(query)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def recall(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Share of the true first ten among the first ten found."""
    return statistics.mean(len(set(one[:TOP]) & set(other)) / TOP for one, other in zip(found, truth, strict=True))


def truth(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """The first ten of every query by numpy, among some rows or all."""
    rows = np.arange(len(vectors)) if rows is None else rows
    best = [(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)) for _ in queries]
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        # A product of many queries at once reads the vectors once.
        for place, scores in enumerate(queries @ vectors[part].T):
            first = np.argpartition(-scores, min(TOP, len(part) - 1))[:TOP]
            both = np.concatenate([best[place][0], scores[first]]), np.concatenate([best[place][1], part[first]])
            order = np.argsort(-both[0], kind="stable")[:TOP]
            best[place] = both[0][order], both[1][order]
    return [found for _, found in best]


def ranked(store: FaissStore, query: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The first ten as a gallery ranks them: the store's finds by their exact scores."""
    found = store.search(query, TOP, rows)
    return found[np.argsort(-(store.vectors(found) @ query), kind="stable")][:TOP]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200, help="queries whose recall is measured")
    parser.add_argument("--timed", type=int, default=41, help="queries that are timed")
    parser.add_argument("--types", nargs="+", choices=["exact", "int8", "hnsw"], default=["exact", "int8", "hnsw"])
    parser.add_argument("--folder", type=Path, help="keep vectors and indexes here, and take those that are here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        width = arguments.dimensions // 2
        file = folder / f"vectors_{arguments.count}_{arguments.dimensions}.npy"
        if not file.exists():
            np.save(file, gallery(arguments.count, width))
        vectors = np.load(file)
        asked = max(arguments.queries, arguments.timed)
        people = np.random.default_rng(1).integers(-(-arguments.count // IMAGES_A_PERSON), size=asked)
        queries = halves(people, people % OUTFITS, QUERY_NOISE, width, seed=2)
        print(f"{arguments.count} vectors of {arguments.dimensions}, {usable_cores()} cores")
        for index_type in arguments.types:
            store = open_store(folder, vectors, index_type)
            if arguments.timed:
                measure_time(store, folder, index_type, vectors, queries[: arguments.timed])
            if arguments.queries:
                measure_recall(store, vectors, queries[: arguments.queries])
            store.close()
            gc.collect()


def open_store(folder: Path, vectors: np.ndarray, index_type: IndexType) -> FaissStore:
    """The index of that type in the folder, built if it is not there."""
    target = folder / f"{index_type}_{len(vectors)}_{vectors.shape[1]}"
    if not target.exists():
        unfinished = folder / f".{target.name}"
        unfinished.mkdir(exist_ok=True)
        start = time.perf_counter()
        chunks = (vectors[start : start + CHUNK] for start in range(0, len(vectors), CHUNK))
        FaissStore.write(unfinished, chunks, vectors.shape[1], index_type)
        print(f"{index_type}: built in {time.perf_counter() - start:.0f} s")
        unfinished.replace(target)
    whole = (target / VECTORS).stat().st_size
    searched = whole if index_type == "exact" else (target / APPROXIMATION).stat().st_size
    note = " of links to them, which lead to whole vectors" if index_type == "hnsw" else ""
    print(f"{index_type}: searches {searched / whole:.3f} of the vectors' memory{note}")
    return FaissStore(target, index_type)


def measure_time(
    store: FaissStore, folder: Path, index_type: IndexType, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """Prints what a query takes, beside numpy's product or an exact search of the same vectors."""

    def ask(query: np.ndarray) -> None:
        ranked(store, query)

    other: Ask
    if index_type == "exact":
        name, other = "numpy's product", lambda query: vectors @ query
    else:
        exact = open_store(folder, vectors, "exact")
        name, other = "an exact search", lambda query: ranked(exact, query)
    turns(ask, other, queries[:3])  # both read their memory once
    mine, others = turns(ask, other, queries)
    print(f"  a query takes {1000 * mine:.2f} ms, {name} {1000 * others:.2f} ms: ", end="")
    print(f"ratio {mine / others:.3f}, {others / mine:.1f} times faster", flush=True)


def measure_recall(store: FaissStore, vectors: np.ndarray, neutral: np.ndarray) -> None:
    """Prints what share of the true first ten is found, for several clothing weights and within a filter."""
    for beta in (1.0, 0.3, 0.0):
        queries = neutral * np.repeat(np.array([1, beta], dtype=np.float32), vectors.shape[1] // 2)
        found = recall([ranked(store, query) for query in queries], truth(vectors, queries))
        print(f"  recall@{TOP} at beta {beta:g}: {found:.4f}", flush=True)
    some = np.flatnonzero(np.random.default_rng(3).random(len(vectors)) < 0.1)
    found = recall([ranked(store, query, some) for query in neutral], truth(vectors, neutral, some))
    print(f"  recall@{TOP} within a filter that selects {len(some) / len(vectors):.0%}: {found:.4f}", flush=True)


if __name__ == "__main__":
    main()
