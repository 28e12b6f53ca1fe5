"""The Milvus collections that an index no longer uses: a file names them until they are dropped."""

import json
import time
from pathlib import Path

from modeling_bdam.files import write_json

from .manifest import Manifest
from .opened import reader_name

COLLECTIONS = "collections.json"
_GRACE = 3600.0  # seconds that a replaced collection is kept for searches of open readers


class Collections:
    """Collections to drop, in a file of the index: unfinished ones of a killed run, and replaced ones.

    A replaced collection is kept for an hour, because a reader finds the new one only with its next search, and as long
    as a copy of the index holds it. A cluster that does not respond does not stop a run: its collections stay listed.
    """

    def __init__(self, index: Path) -> None:
        self._index = index
        self._file = index / COLLECTIONS

    def begin(self, address: str, collection: str) -> None:
        """Lists a collection before it is created, so that a killed run does not leave it behind."""
        self._write([*self._read(), [address, collection, 0.0]])

    def published(self, manifest: Manifest, old: Manifest | None, was_copy: bool) -> None:
        """Removes the new collection from the list, and adds that of the last generation.

        `was_copy` says that the last generation was that of another index: its collection is only released.
        """
        entries = [entry for entry in self._read() if entry[1] != manifest.collection]
        if old is not None and old.store is not None and old.collection not in (None, manifest.collection):
            if was_copy:
                from ..stores.milvus_store import MilvusStore

                MilvusStore.release(old.store, reader_name(self._index))
            else:
                entries.append([old.store, old.collection, time.time() + _GRACE])
        self._write(entries)

    def drop_old(self) -> list[str]:
        """Drops the collections that are due; returns a note for each one that could not be dropped."""
        entries, notes, remaining = self._read(), [], []
        for address, collection, due in entries:
            is_kept = due > time.time()
            if not is_kept:
                from ..stores.milvus_store import MilvusStore

                try:
                    is_kept = not MilvusStore.drop(address, collection)
                except (OSError, ValueError) as error:
                    is_kept = True
                    notes.append(f"the old collection {collection} is still in the cluster: {error}")
            if is_kept:
                remaining.append([address, collection, due])
        if remaining != entries:
            self._write(remaining)
        return notes

    def _read(self) -> list[list]:
        return json.loads(self._file.read_text()) if self._file.is_file() else []

    def _write(self, entries: list[list]) -> None:
        if entries:
            write_json(self._file, entries)
        else:
            self._file.unlink(missing_ok=True)
