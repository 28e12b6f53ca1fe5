"""Vectors in a Milvus cluster, which is reached by its address."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .store import IndexType

_INDEXES: dict[IndexType, dict[str, Any]] = {
    "exact": {"index_type": "FLAT"},
    "hnsw": {"index_type": "HNSW", "params": {"M": 32, "efConstruction": 100}},
    "int8": {"index_type": "IVF_SQ8", "params": {"nlist": 1024}},
}
_SEARCH_WIDTH, _PROBES = 512, 64
_ROWS_A_REQUEST = 1000  # a request of Milvus holds at most 64 MiB and returns at most 16,384 rows
_LARGEST_FILTER = 1_000_000  # rows named in one request
_TIMEOUT = 60.0  # seconds


class MilvusStore:
    """The vectors of one index as a collection `row`, `vector`; the table of metadata stays in the index folder.

    A token for the cluster is read from the environment, `MILVUS_TOKEN`, and never written down.
    """

    def __init__(self, address: str, collection: str, index_type: IndexType, count: int) -> None:
        self._address, self._collection, self._index_type, self._count = address, collection, index_type, count
        self._client = _connect(address)
        with _told(address):
            if not self._client.has_collection(collection, timeout=_TIMEOUT):
                raise ValueError(f"{address}: the cluster has no collection {collection}; build the index again")
            self._client.load_collection(collection, timeout=_TIMEOUT)

    @staticmethod
    def write(
        address: str, collection: str, chunks: Iterable[np.ndarray], dimensions: int, index_type: IndexType
    ) -> None:
        """Makes a collection of vectors; one of that name is replaced.

        Args:
            chunks: the vectors, float32 [n, dimensions] at a time.

        Raises:
            ValueError, OSError: as of `MilvusStore`.
        """
        from pymilvus import DataType

        client = _connect(address)
        with _told(address):
            client.drop_collection(collection, timeout=_TIMEOUT)
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("row", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimensions)
            index = client.prepare_index_params()
            index.add_index("vector", metric_type="IP", **_INDEXES[index_type])
            client.create_collection(
                collection, schema=schema, index_params=index, consistency_level="Strong", timeout=_TIMEOUT
            )
            row = 0
            for chunk in chunks:
                for start in range(0, len(chunk), _ROWS_A_REQUEST):
                    part = chunk[start : start + _ROWS_A_REQUEST]
                    entities = [{"row": row + place, "vector": vector} for place, vector in enumerate(part)]
                    client.insert(collection, entities, timeout=_TIMEOUT)
                    row += len(part)
            client.flush(collection)
        client.close()

    @staticmethod
    def drop(address: str, collection: str) -> None:
        """Removes a collection, if it is there."""
        client = _connect(address)
        with _told(address):
            client.drop_collection(collection, timeout=_TIMEOUT)
        client.close()

    def search(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows whose dot product with `query` [dimensions] is largest, best first, int64 [at most count].

        Args:
            rows: search these alone (int64, ascending); None for all.

        Raises:
            ValueError: a filter that names more rows than a request can hold.
            OSError: the cluster does not answer.
        """
        parameters = {"exact": {}, "hnsw": {"ef": max(_SEARCH_WIDTH, 2 * count)}, "int8": {"nprobe": _PROBES}}
        wanted = 2 * count + 32 if self._index_type == "int8" else count
        with _told(self._address):
            found = self._client.search(
                self._collection,
                [query.tolist()],
                limit=min(wanted, self._count),
                filter="" if rows is None else self._filter(rows),
                search_params={"metric_type": "IP", "params": parameters[self._index_type]},
                output_fields=["row"],
                timeout=_TIMEOUT,
            )
        return np.array([hit["row"] for hit in found[0]], dtype=np.int64)

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of rows, float32 [len(rows), dimensions].

        Raises:
            ValueError: the collection lacks some of them.
            OSError: the cluster does not answer.
        """
        wanted = [int(row) for row in rows]
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(wanted), _ROWS_A_REQUEST):
            with _told(self._address):
                part = self._client.get(
                    self._collection,
                    ids=wanted[start : start + _ROWS_A_REQUEST],
                    output_fields=["row", "vector"],
                    timeout=_TIMEOUT,
                )
            vectors |= {entity["row"]: np.asarray(entity["vector"], dtype=np.float32) for entity in part}
        if missing := len(set(wanted) - set(vectors)):
            raise ValueError(
                f"{self._address}: collection {self._collection} lacks {missing} vectors; build the index again"
            )
        return np.stack([vectors[row] for row in wanted])

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _filter(self, rows: np.ndarray) -> str:
        """Milvus' expression for some rows, told by the fewer: those within or those without."""
        without = 2 * len(rows) > self._count
        named = np.setdiff1d(np.arange(self._count), rows, assume_unique=True) if without else rows
        if len(named) > _LARGEST_FILTER:
            raise ValueError(
                f"the filter selects {len(rows)} of {self._count} images: a request to Milvus names at most "
                f"{_LARGEST_FILTER}; narrow it"
            )
        return f"row {'not in' if without else 'in'} [{','.join(map(str, named))}]"


def _connect(address: str) -> Any:
    """A client of the cluster.

    Raises:
        ValueError: pymilvus is not installed, or this is no address of a cluster.
        ConnectionError: nobody answers.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"store {address!r}: give the address of a Milvus cluster, such as http://localhost:19530")
    if parts.username or parts.password:
        raise ValueError("store: an index keeps its address; give the cluster's token in MILVUS_TOKEN instead")
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise ValueError("a store in Milvus needs pymilvus: pip install 'bdam-reid[milvus]'") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback beside every exception
    try:
        return MilvusClient(address, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10)
    except MilvusException as error:
        raise ConnectionError(f"no Milvus answers at {address}: {error.message}") from None


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what goes wrong in the cluster into one line that names it."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise OSError(f"Milvus at {address}: {' '.join(str(error.message).split())}") from None
