"""Searches by each row of a table of queries, and writes the hits as JSON Lines or Parquet."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_bdam.files import atomic_path, did_you_mean, usable_cores

from ..benchmarks.metadata_file import read_table
from ..benchmarks.text_files import check_string
from ..images import check_image, open_image
from .composition import Source, clothes_of, compose_vectors, content_of, query_kind
from .embedder import Embedder
from .gallery import Filter, PersonGallery
from .hits import PersonHit, hit_entry, is_probably_absent, likely_hits
from .index.column_names import public_names

_INPUTS, _OUTPUTS = (".csv", ".tsv", ".jsonl", ".parquet"), (".jsonl", ".parquet")
_COLUMNS = ("sentence", "image")
_BATCH = 64  # queries per forward pass


@dataclass(frozen=True)
class TableQuery:
    """A query of a table: a sentence, a picture or both (`PersonGallery.search_composed`); `row` counts from 1."""

    row: int
    id: Any
    sentence: str | None
    image: Path | None


class TableAnswer(NamedTuple):
    """The hits of a query, best first."""

    query: TableQuery
    hits: list[PersonHit]
    is_probably_absent: bool


def read_queries(file: Path, embedder: Embedder, notes: list[str]) -> list[TableQuery]:
    """Reads and checks a table with the columns `sentence`, `image` or both, and optionally `id`.

    Image paths are relative to the folder of the file. All sentences and pictures are checked, so that an error occurs
    before the first search. Appends to `notes`.

    Raises:
        ValueError: a row has no sentence and no picture, or one that cannot be embedded; the message names the line.
        OSError: the file cannot be read.
    """
    if file.suffix.lower() not in _INPUTS:
        raise ValueError(f"{file}: queries are read from {', '.join(_INPUTS)}")
    table, places = read_table(file, notes)
    if set(_COLUMNS).isdisjoint(table.column_names):
        hint = did_you_mean("sentence", table.column_names)
        columns = ", ".join(table.column_names)
        raise ValueError(f"{file}: there is no column `sentence` or `image`; the columns are {columns}{hint}")
    queries: list[TableQuery] = []
    for cells, place in zip(table.to_pylist(), places, strict=True):
        given = {name: check_string(cells[name], place, name) for name in _COLUMNS if cells.get(name) is not None}
        sentence, image = map(given.get, _COLUMNS)
        if sentence is None and image is None:
            raise ValueError(f"{place}: there is no sentence and no image; fill in one of them, or remove the row")
        path = None if image is None else file.parent / image
        try:
            if sentence is not None:
                embedder.check_sentence(sentence)
            reason = None if path is None else check_image(path)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if reason is not None:
            raise ValueError(f"{place}: the image {image}: {reason}; paths are relative to the folder of the table")
        queries.append(TableQuery(len(queries) + 1, cells.get("id"), sentence, path))
    return queries


def search_queries(
    gallery: PersonGallery,
    queries: Sequence[TableQuery],
    top_k: int = 20,
    offset: int = 0,
    clothing_weight: float | None = None,
    where: Filter = None,
    identity_from: Source = "image",
    include_self: bool = False,
    rerank: int = 0,
    min_likelihood: float | None = None,
) -> Iterator[TableAnswer]:
    """Yields the first `offset` + `top_k` hits of each query; embeds the queries in batches.

    `min_likelihood` leaves out hits that are less likely. For the other arguments and the errors see
    `PersonGallery.search_composed`.
    """
    for query in queries if rerank else ():
        if clothes_of(query.image is not None, query.sentence, identity_from) is None:
            raise ValueError(f"query {query.row} has no sentence for the clothes to re-rank by: leave out --rerank")
    wanted = top_k + offset
    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        tqdm(total=len(queries), desc="searching", unit="query", disable=None) as bar,  # None: only in a terminal
    ):
        for start in range(0, len(queries), _BATCH):
            batch = queries[start : start + _BATCH]
            words, pictures = _embed(gallery.embedder, batch, pool)
            for query in batch:
                vector = compose_vectors(pictures.get(query.row), words.get(query.row), identity_from)
                excluded = None if include_self else content_of(query.image)
                kind = query_kind(query.image is not None, query.sentence is not None, identity_from)
                clothes = clothes_of(query.image is not None, query.sentence, identity_from)
                count = max(wanted, rerank)  # the likely ones of these are kept
                options = (clothing_weight, where, excluded, kind, rerank, clothes)
                hits = gallery.search_vector(vector, count, *options)
                is_absent = is_probably_absent(hits)
                yield TableAnswer(query, likely_hits(hits, min_likelihood)[:wanted], is_absent)
                bar.update()


def _embed(
    embedder: Embedder, batch: Sequence[TableQuery], pool: ThreadPoolExecutor
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Returns the vectors [dimensions] of the sentences and of the pictures of a batch, by row."""
    sentences = {query.row: query.sentence for query in batch if query.sentence is not None}
    paths = {query.row: query.image for query in batch if query.image is not None}
    pixels = list(pool.map(lambda path: embedder.pixels.resize(open_image(path)), paths.values()))
    words = embedder.embed_sentences(list(sentences.values())) if sentences else ()
    pictures = embedder.embed_images(pixels, [None] * len(pixels)) if pixels else ()
    return dict(zip(sentences, words, strict=True)), dict(zip(paths, pictures, strict=True))


def check_output(output: Path) -> None:
    """Raises `ValueError` if `write_results` cannot write this file."""
    if output.suffix.lower() not in _OUTPUTS:
        raise ValueError(f"{output}: hits are written as {' or '.join(_OUTPUTS)}")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}; create it first")


def write_results(results: Iterable[TableAnswer], output: Path | None = None, offset: int = 0) -> None:
    """Writes the hits of queries without the first `offset`, one JSON line per query or one Parquet row per hit.

    A file is written atomically; without one, the lines are printed. A metadata column of the name of another column
    of the Parquet file is called `metadata_NAME`.
    """
    if output is None:
        sys.stdout.writelines(_line(answer, offset) for answer in results)
    elif output.suffix.lower() == ".jsonl":
        with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_line(answer, offset) for answer in results)
    else:
        table = _table(results, offset)
        with atomic_path(output) as temporary:
            pq.write_table(table, temporary)


def _line(answer: TableAnswer, offset: int) -> str:
    query, hits, is_absent = answer
    entries = [hit_entry(rank, hit) for rank, hit in enumerate(hits[offset:], offset + 1)]
    image = None if query.image is None else str(query.image)
    found: dict[str, Any] = {"row": query.row, "id": query.id, "sentence": query.sentence, "image": image}
    found |= {"is_probably_absent": is_absent, "hits": entries}
    return json.dumps(found, ensure_ascii=False, default=str) + "\n"


def _table(results: Iterable[TableAnswer], offset: int) -> pa.Table:
    own, metadata = [], []
    for query, hits, _ in results:
        asked = {"query_row": query.row, "query_id": query.id, "sentence": query.sentence}
        for rank, hit in enumerate(hits[offset:], offset + 1):
            entry = hit_entry(rank, hit)
            own.append(asked | {name: entry[name] for name in entry if name not in ("metadata", "content", "copies")})
            metadata.append(hit.metadata)
    table = pa.Table.from_pylist(own)
    names = public_names(list(dict.fromkeys(name for row in metadata for name in row)), table.column_names)
    for name, public in names.items():
        table = table.append_column(public, pa.array([row.get(name) for row in metadata]))
    return table
