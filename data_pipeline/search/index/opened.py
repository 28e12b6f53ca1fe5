"""Opens the current generation of an index for reading."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from ..stores.faiss_store import FaissStore
from ..stores.store import VectorStore
from .manifest import Manifest, read_manifest
from .tokens_file import open_tokens

if TYPE_CHECKING:
    from ..embedder import Embedder

TABLE = "metadata.parquet"


@dataclass(frozen=True)
class OpenedIndex:
    """Manifest, table, vectors and tokens of one generation; row i of the table has vector i and tokens i.

    The tokens are those that the matching head reads, memory-mapped float16 [count, 2L, D], or None.
    """

    manifest: Manifest
    table: pa.Table
    store: VectorStore
    tokens: np.ndarray | None = None


def open_index(index: Path) -> OpenedIndex:
    """Opens the generation that the manifest names.

    Raises `ValueError` for a damaged index; `OSError` if a file cannot be read or the Milvus cluster does not respond;
    and errors as `read_manifest`.
    """
    while True:
        manifest = read_manifest(index)
        folder = index / manifest.generation
        try:
            with pyarrow.parquet.ParquetFile(folder / TABLE) as file:  # `read_table` would import pandas
                table = file.read()
            tokens = open_tokens(folder, manifest.count)
            if manifest.store is None:
                return OpenedIndex(manifest, table, FaissStore(folder, manifest.index_type), tokens)
            from ..stores.milvus_store import MilvusStore

            assert manifest.collection is not None
            store = MilvusStore(manifest.store, manifest.collection, manifest.index_type, manifest.count)
            if is_copy(index, manifest):
                store.hold(reader_name(index))
            return OpenedIndex(manifest, table, store, tokens)
        except (FileNotFoundError, RuntimeError, pa.ArrowException) as error:
            # Try again if an indexing run published a new generation and removed this one in between
            if read_manifest(index) == manifest:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{index}: the index is damaged ({reason}); remove the folder and build the index again"
                ) from None


def is_copy(index: Path, manifest: Manifest) -> bool:
    """Whether an index was copied or moved since it was written, so that a Milvus collection may be that of another."""
    return manifest.home is not None and manifest.home != os.path.realpath(index)


def reader_name(index: Path) -> str:
    """Returns the name with which a copied index holds the collection of its original."""
    return hashlib.sha256(os.path.realpath(index).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def check_model(index: Path, manifest: Manifest, embedder: "Embedder") -> None:
    """Raises `ValueError` if an index was built by another model; the message names both models."""
    if (manifest.weights, manifest.config) != (embedder.weights, embedder.config):
        raise ValueError(
            f"{index}: the index was built by the model {manifest.describe_model()}, but this is "
            f"{embedder.describe()}; use the first, or build an index in another folder"
        )
