"""Opens the current generation of an index for reading."""

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
    """Manifest, table and vectors of one generation; row i of the table has vector i."""

    manifest: Manifest
    table: pa.Table
    store: VectorStore


def open_index(index: Path) -> OpenedIndex:
    """Opens the generation that the manifest names.

    Raises `ValueError` for a damaged index; `OSError` if a file cannot be read or the Milvus cluster does not respond;
    and errors as `read_manifest`.
    """
    while True:
        manifest = read_manifest(index)
        folder = index / manifest.generation
        try:
            table = pyarrow.parquet.read_table(folder / TABLE)
            if manifest.store is None:
                return OpenedIndex(manifest, table, FaissStore(folder, manifest.index_type))
            from ..stores.milvus_store import MilvusStore

            assert manifest.collection is not None
            store = MilvusStore(manifest.store, manifest.collection, manifest.index_type, manifest.count)
            return OpenedIndex(manifest, table, store)
        except (FileNotFoundError, RuntimeError, pa.ArrowException) as error:
            # Try again if an indexing run published a new generation and removed this one in between
            if read_manifest(index) == manifest:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{index}: the index is damaged ({reason}); remove the folder and build the index again"
                ) from None
