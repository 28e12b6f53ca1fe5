"""Search in a large gallery, compared with one numpy product: `python tests/benchmarks/search_scale.py`.

The vectors are like those of a model: an identity half and a clothing half, each of length 1. People are clustered in
looks (many people are similar) and have two outfits and 8 images each. So the nearest neighbors of a query are the
images of one person in one outfit, then similar people. The indexes are those of `bdam index` and `bdam search`. Exact
search is timed in turns with the numpy product of the same float32 matrix, the other types with exact search; ratios
are of the medians. Targets: exact at most 1.3 times the time of numpy; hnsw 10 times faster than exact with a recall@10
of at least 0.98 for clustered vectors; int8 with a quarter of the memory and a recall@10 of at least 0.97; exact
filters.

`--folder` keeps vectors and indexes, so that `--timed 0` builds and measures recall, and a second run with
`--queries 0` measures only time.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline.search.stores.faiss_store import APPROXIMATION, VECTORS, FaissStore
from data_pipeline.search.stores.store import IndexType
from modeling_bdam.files import atomic_folder, usable_cores

IMAGES_A_PERSON, OUTFITS, PEOPLE_A_LOOK = 8, 2, 50
# Distance of a person from the look, of an image from its person, and of a query from its person; unit vectors.
PERSON_NOISE, IMAGE_NOISE, QUERY_NOISE = 0.8, 0.6, 0.9
CHUNK = 50_000


def halves(people: np.ndarray, outfits: np.ndarray, noise: float, width: int, seed: int) -> np.ndarray:
    """Returns vectors [N, 2 * width] of people [N] in outfits [N]; `seed` is that of the noise."""
    vectors = np.empty((len(people), 2, width), dtype=np.float32)  # [N, 2, D]
    for half, names in enumerate((people, people * OUTFITS + outfits)):
        looks = _draw(names // PEOPLE_A_LOOK, width, 10 + half)
        persons = looks + PERSON_NOISE * _draw(names, width, 20 + half)
        persons /= np.linalg.norm(persons, axis=1, keepdims=True)
        own = np.random.default_rng((seed, half)).standard_normal(persons.shape, dtype=np.float32) / np.sqrt(width)
        vectors[:, half] = persons + noise * own
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return vectors.reshape(len(people), 2 * width)


def _draw(names: np.ndarray, width: int, kind: int) -> np.ndarray:
    """Returns one random vector of about unit length per name, [N, width]; equal names have equal vectors."""
    known, places = np.unique(names, return_inverse=True)
    drawn = [np.random.default_rng((kind, int(name))).standard_normal(width, dtype=np.float32) for name in known]
    return (np.stack(drawn) / np.sqrt(width))[places]


def gallery(count: int, width: int, is_random: bool = False) -> np.ndarray:
    """Returns the vectors of `count` images, sorted by person or random, [count, 2 * width]."""
    if is_random:
        return random_vectors(count, width, seed=1)
    vectors = np.empty((count, 2 * width), dtype=np.float32)
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        vectors[rows] = halves(rows // IMAGES_A_PERSON, rows % OUTFITS, IMAGE_NOISE, width, seed=1000 + start)
    return vectors


def random_vectors(count: int, width: int, seed: int) -> np.ndarray:
    """Returns random vectors with halves of unit length, [count, 2 * width]."""
    vectors = np.random.default_rng(seed).standard_normal((count, 2, width), dtype=np.float32)
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).reshape(count, 2 * width)


Ask = Callable[[np.ndarray], object]


def turns(one: Ask, other: Ask, queries: np.ndarray) -> list[float]:
    """Returns the median seconds per query of two functions that take turns."""
    seconds: list[list[float]] = [[], []]
    for query in queries:
        for ask, taken in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            ask(query)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def recall(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Returns the recall: the mean share of the exact first hits in the first hits of an index."""
    return statistics.mean(len(set(one) & set(other)) / len(other) for one, other in zip(found, truth, strict=True))


def truth(vectors: np.ndarray, queries: np.ndarray, top: int, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """Returns the exact first `top` of each query with numpy, among some rows or all."""
    rows = np.arange(len(vectors)) if rows is None else rows
    best = [(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)) for _ in queries]
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        # One product for all queries reads the vectors only once.
        for place, scores in enumerate(queries @ vectors[part].T):
            first = np.argpartition(-scores, min(top, len(part) - 1))[:top]
            both = np.concatenate([best[place][0], scores[first]]), np.concatenate([best[place][1], part[first]])
            order = np.argsort(-both[0], kind="stable")[:top]
            best[place] = both[0][order], both[1][order]
    return [found for _, found in best]


def ranked(store: FaissStore, query: np.ndarray, top: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Returns the first `top` of a store in the order of their exact scores, as in a gallery."""
    found = store.search(query, top, rows)
    return found[np.argsort(-(store.vectors(found) @ query), kind="stable")][:top]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200, help="queries to measure recall with")
    parser.add_argument("--timed", type=int, default=41, help="queries to measure time with")
    parser.add_argument("--types", nargs="+", choices=["exact", "int8", "hnsw"], default=["exact", "int8", "hnsw"])
    parser.add_argument("--top", type=int, default=10, help="rank of the recall")
    parser.add_argument("--random", action="store_true", help="random vectors without clusters, the worst case")
    parser.add_argument("--folder", type=Path, help="folder that keeps vectors and indexes for later runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        width = arguments.dimensions // 2
        file = folder / f"{'random' if arguments.random else 'vectors'}_{arguments.count}_{arguments.dimensions}.npy"
        if not file.exists():
            np.save(file, gallery(arguments.count, width, arguments.random))
        vectors = np.load(file)
        asked = max(arguments.queries, arguments.timed)
        people = np.random.default_rng(1).integers(-(-arguments.count // IMAGES_A_PERSON), size=asked)
        queries = halves(people, people % OUTFITS, QUERY_NOISE, width, seed=2)
        if arguments.random:
            queries = random_vectors(asked, width, seed=2)
        print(f"{arguments.count} vectors of {arguments.dimensions}, {usable_cores()} cores")
        for index_type in arguments.types:
            store = open_store(folder / file.stem, vectors, index_type)
            if arguments.timed:
                measure_time(store, folder / file.stem, index_type, vectors, queries[: arguments.timed])
            if arguments.queries:
                measure_recall(store, vectors, queries[: arguments.queries], arguments.top)
            store.close()
            gc.collect()


def open_store(folder: Path, vectors: np.ndarray, index_type: IndexType) -> FaissStore:
    """Opens the index of a type in the folder, after building it if it is missing."""
    target = folder / f"{index_type}_{len(vectors)}_{vectors.shape[1]}"
    if not target.exists():
        start = time.perf_counter()
        chunks = (vectors[first : first + CHUNK] for first in range(0, len(vectors), CHUNK))
        with atomic_folder(target) as temporary:
            sampled = FaissStore.write(temporary, chunks, vectors.shape[1], index_type)
        print(f"{index_type}: built in {time.perf_counter() - start:.0f} s, recall of its own sample {sampled:.3f}")
    whole = (target / VECTORS).stat().st_size
    searched = whole if index_type == "exact" else (target / APPROXIMATION).stat().st_size
    note = " for its graph, and reads the vectors" if index_type == "hnsw" else ""
    print(f"{index_type}: searches {searched / whole:.3f} of the memory of the vectors{note}")
    return FaissStore(target, index_type)


def measure_time(
    store: FaissStore, folder: Path, index_type: IndexType, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """Prints the time per query, and its ratio to the numpy product or to an exact search."""

    def ask(query: np.ndarray) -> None:
        ranked(store, query, 10)

    other: Ask
    if index_type == "exact":
        name, other = "the numpy product", lambda query: vectors @ query
    else:
        exact = open_store(folder, vectors, "exact")
        name, other = "an exact search", lambda query: ranked(exact, query, 10)
    turns(ask, other, queries[:3])  # warms up
    mine, others = turns(ask, other, queries)
    print(f"  a query takes {1000 * mine:.2f} ms, {name} {1000 * others:.2f} ms: ", end="")
    print(f"ratio {mine / others:.3f}, {others / mine:.1f} times faster", flush=True)


def measure_recall(store: FaissStore, vectors: np.ndarray, neutral: np.ndarray, top: int) -> None:
    """Prints the recall for several clothing weights and with a filter."""
    for beta in (1.0, 0.3, 0.0):
        queries = neutral * np.repeat(np.array([1, beta], dtype=np.float32), vectors.shape[1] // 2)
        found = recall([ranked(store, query, top) for query in queries], truth(vectors, queries, top))
        print(f"  recall@{top} at beta {beta:g}: {found:.4f}", flush=True)
    some = np.flatnonzero(np.random.default_rng(3).random(len(vectors)) < 0.1)
    found = recall([ranked(store, query, top, some) for query in neutral], truth(vectors, neutral, top, some))
    print(f"  recall@{top} with a filter that selects {len(some) / len(vectors):.0%}: {found:.4f}", flush=True)


if __name__ == "__main__":
    main()
