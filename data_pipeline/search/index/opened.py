"""One state of an index, opened for reading."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from ..stores.faiss_store import FaissStore
from ..stores.store import VectorStore
from .manifest import Manifest, read_manifest

TABLE = "metadata.parquet"


@dataclass(frozen=True)
class OpenedIndex:
    """Manifest, table and vectors, which belong together: row i of the table has vector i."""

    manifest: Manifest
    table: pa.Table
    store: VectorStore


def open_index(index: Path) -> OpenedIndex:
    """Opens the state that the manifest names.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: the index is damaged, or another version of the package wrote it.
        OSError: a file cannot be read, or the cluster that holds the vectors does not answer.
    """
    while True:
        manifest = read_manifest(index)
        try:
            return _open(index, manifest)
        except (FileNotFoundError, RuntimeError, pa.ArrowException) as error:
            # An indexing run may have switched to a new state, and removed this one, in between.
            if read_manifest(index) == manifest:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{index}: the index is damaged ({reason}); remove the folder and build it again"
                ) from None


def _open(index: Path, manifest: Manifest) -> OpenedIndex:
    folder = index / manifest.generation
    table = pyarrow.parquet.read_table(folder / TABLE)
    store: VectorStore
    if manifest.store is None:
        store = FaissStore(folder, manifest.index_type)
    else:
        from ..stores.milvus_store import MilvusStore

        assert manifest.collection is not None
        store = MilvusStore(manifest.store, manifest.collection, manifest.index_type, manifest.count)
    return OpenedIndex(manifest, table, store)
