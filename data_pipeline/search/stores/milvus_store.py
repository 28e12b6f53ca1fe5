"""Vectors in a Milvus cluster."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from modeling_bdam.files import install_command

from .store import IndexType

_INDEXES: dict[IndexType, dict[str, Any]] = {
    "exact": {"index_type": "FLAT"},
    "hnsw": {"index_type": "HNSW", "params": {"M": 32, "efConstruction": 100}},
    "int8": {"index_type": "IVF_SQ8", "params": {"nlist": 1024}},
}
_SEARCH_WIDTH, _PROBES = 512, 64
_REQUEST_ROWS = 1000  # limits of Milvus: 64 MiB per request, 16,384 rows per response
_LARGEST_FILTER = 1_000_000  # row numbers in one request
_TIMEOUT = 60.0  # seconds
_HOLD = "bdam_copy_"  # prefix of the alias with which a copied index holds the collection of its original

Answer = TypeVar("Answer")


class MilvusStore:
    """A `VectorStore` in a collection with the fields `row` and `vector`; the metadata table is in the index folder.

    The access token is read from the environment variable `MILVUS_TOKEN` and never stored.

    Raises:
        ValueError: the address is invalid, the collection is missing, or pymilvus is not installed.
        OSError: the cluster does not respond.
    """

    def __init__(self, address: str, collection: str, index_type: IndexType, count: int) -> None:
        self._address, self._collection, self._index_type, self._count = address, collection, index_type, count
        self._client = self._load()

    @staticmethod
    def write(
        address: str, collection: str, chunks: Iterable[np.ndarray], dimensions: int, index_type: IndexType
    ) -> None:
        """Creates or replaces a collection with vectors, float32 [n, dimensions] per chunk."""
        from pymilvus import DataType

        with _milvus_errors(address), closing(_connect(address)) as client:
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
                for start in range(0, len(chunk), _REQUEST_ROWS):
                    part = chunk[start : start + _REQUEST_ROWS]
                    entities = [{"row": row + place, "vector": vector} for place, vector in enumerate(part)]
                    client.insert(collection, entities, timeout=_TIMEOUT)
                    row += len(part)
            client.flush(collection)

    @staticmethod
    def check(address: str) -> None:
        """Connects to a cluster; raises as the constructor."""
        _connect(address).close()

    @staticmethod
    def drop(address: str, collection: str) -> bool:
        """Deletes a collection unless a copied index holds it; returns whether it is gone."""
        with _milvus_errors(address), closing(_connect(address)) as client:
            if not client.has_collection(collection, timeout=_TIMEOUT):
                return True
            aliases = client.list_aliases(collection, timeout=_TIMEOUT)["aliases"]
            if any(alias.startswith(_HOLD) for alias in aliases):
                return False
            client.drop_collection(collection, timeout=_TIMEOUT)
            return True

    def hold(self, reader: str) -> None:
        """Protects the collection from `drop`, for a copied index with this name."""
        with suppress(OSError):  # the alias exists, or the token has no right to create it
            self._ask(lambda client: client.create_alias(self._collection, _HOLD + reader, timeout=_TIMEOUT))

    @staticmethod
    def release(address: str, reader: str) -> None:
        """Ends the protection by `hold`."""
        with suppress(OSError), _milvus_errors(address), closing(_connect(address)) as client:
            client.drop_alias(_HOLD + reader, timeout=_TIMEOUT)

    def search(self, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the rows with the largest inner products; raises `ValueError` if a request cannot hold the filter."""
        parameters = {"exact": {}, "hnsw": {"ef": max(_SEARCH_WIDTH, 2 * count)}, "int8": {"nprobe": _PROBES}}
        wanted = 2 * count + 32 if self._index_type == "int8" else count
        expression = "" if rows is None else self._filter(rows)
        found = self._ask(
            lambda client: client.search(
                self._collection,
                [query.tolist()],
                limit=min(wanted, self._count),
                filter=expression,
                search_params={"metric_type": "IP", "params": parameters[self._index_type]},
                output_fields=["row"],
                timeout=_TIMEOUT,
            )
        )
        return np.array([hit["row"] for hit in found[0]], dtype=np.int64)

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the vectors of the given rows, float32 [len(rows), dimensions]; `ValueError` if one is missing."""
        wanted = [int(row) for row in rows]
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(wanted), _REQUEST_ROWS):
            part = self._vectors(wanted[start : start + _REQUEST_ROWS])
            vectors |= {entity["row"]: np.asarray(entity["vector"], dtype=np.float32) for entity in part}
        if missing := len(set(wanted) - set(vectors)):
            raise ValueError(
                f"{self._address}: collection {self._collection} lacks {missing} vectors; build the index again"
            )
        return np.stack([vectors[row] for row in wanted])

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _vectors(self, rows: list[int]) -> list[dict[str, Any]]:
        fields = ["row", "vector"]
        return self._ask(lambda client: client.get(self._collection, ids=rows, output_fields=fields, timeout=_TIMEOUT))

    def _load(self) -> Any:
        """Connects, and loads the collection into the memory of the cluster."""
        client = _connect(self._address)
        with _milvus_errors(self._address):
            if not client.has_collection(self._collection, timeout=_TIMEOUT):
                raise ValueError(
                    f"{self._address}: the cluster has no collection {self._collection}; build the index again"
                )
            client.load_collection(self._collection, timeout=_TIMEOUT)
        return client

    def _ask(self, call: Callable[[Any], Answer]) -> Answer:
        """Sends a request; after an error, it connects again, since the cluster may have been restarted."""
        try:
            return call(self._client)
        except _errors():
            with suppress(*_errors()):
                self._client.close()
            self._client = self._load()
        with _milvus_errors(self._address):
            return call(self._client)

    def _filter(self, rows: np.ndarray) -> str:
        """Returns the filter expression for rows: the shorter of `row in [...]` and `row not in [...]`."""
        without = 2 * len(rows) > self._count
        named = np.setdiff1d(np.arange(self._count), rows, assume_unique=True) if without else rows
        if len(named) > _LARGEST_FILTER:
            raise ValueError(
                f"the filter selects {len(rows)} of {self._count} images: a request to Milvus holds at most "
                f"{_LARGEST_FILTER} row numbers; narrow the filter"
            )
        return f"row {'not in' if without else 'in'} [{','.join(map(str, named))}]"


def _connect(address: str) -> Any:
    """Connects to a cluster; raises `ValueError` for an invalid address, `ConnectionError` without a response."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"store {address!r}: give the address of a Milvus cluster, such as http://localhost:19530")
    if parts.username or parts.password:
        raise ValueError("store: the index would store the password; give the cluster's token in MILVUS_TOKEN instead")
    try:
        from pymilvus import MilvusClient
    except ImportError:
        raise ValueError(f"a store in Milvus needs pymilvus: {install_command('milvus')}") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for each exception
    try:
        # A shared connection would stay broken after a restart of the server: that of pymilvus always, that of gRPC
        # for a time that doubles with each attempt
        own: dict[str, Any] = {"dedicated": True, "grpc_options": {"grpc.use_local_subchannel_pool": 1}}
        return MilvusClient(address, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10, **own)
    except _errors() as error:
        raise ConnectionError(f"no response of Milvus at {address}: {_reason(error)}") from None


@contextmanager
def _milvus_errors(address: str) -> Iterator[None]:
    """Converts errors of Milvus to an `OSError` with the address."""
    try:
        yield
    except _errors() as error:
        raise OSError(f"Milvus at {address}: {_reason(error)}") from None


def _errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions of pymilvus, and of gRPC for a request without an answer in time."""
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    return MilvusException, RpcError


def _reason(error: Any) -> str:
    return " ".join(str(getattr(error, "message", None) or error.details()).split())
