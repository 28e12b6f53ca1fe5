"""One opened generation of an index, and the search in it."""

from pathlib import Path

import numpy as np

from modeling_bdam.evaluation.calibration import Calibration, Kind, absence_threshold, likelihoods

from .hits import PersonHit
from .index.opened import OpenedIndex
from .index.shards import contents_of
from .metadata_table import MetadataTable


class SearchedState:
    """One opened generation: its manifest, table, vectors and tokens, and the groups of images with equal files."""

    def __init__(self, opened: OpenedIndex) -> None:
        self.manifest, self.store, self.tokens = opened.manifest, opened.store, opened.tokens
        self.table = MetadataTable(opened.table, opened.manifest.time_zone)
        self.contents = contents_of(opened.table)
        rows: dict[str, list[int]] = {}
        for row, content in enumerate(self.contents):
            if content is not None:
                rows.setdefault(content, []).append(row)
        self._equal = {content: equal for content, equal in rows.items() if len(equal) > 1}

    def _group(self, row: int) -> str | int:
        """Returns the key of the images that are one hit: those with the content of this one."""
        return self.contents[row] or int(row)

    def _copies(self, row: int, within: np.ndarray | None) -> tuple[str, ...]:
        """Returns the names of the other images with the same content, among the filtered rows."""
        rows = [other for other in self._equal.get(self.contents[row] or "", []) if other != row]
        if rows and within is not None:
            rows = np.intersect1d(rows, within).tolist()
        return tuple(found["path"] for found in self.table.rows(np.array(rows, dtype=np.int64))) if rows else ()

    def search(
        self,
        index: Path,
        query: np.ndarray,
        top_k: int,
        beta: float,
        filters: list[str],
        calibration: Calibration | None = None,
        kind: Kind | None = None,
    ) -> list[PersonHit]:
        """Returns the hits of a query, best first.

        Args:
            index: folder of the index.
            query: float32 [dimensions], without β; it is changed in place.
            top_k: number of hits.
            beta: clothing weight.
            filters: expressions that must all hold.
            calibration: of the model; None for hits without a likelihood.
            kind: of the query, for the calibration.
        """
        # Candidates: the store may use approximate vectors, and some images may be copies of others
        rows = self.table.select(filters) if filters else None
        available = self.manifest.count if rows is None else len(rows)
        if available == 0:
            return []
        query[len(query) // 2 :] *= np.float32(beta)
        wanted = min(top_k, available)
        while True:
            found = self.store.search(query, wanted, rows)  # [F], F ≥ wanted
            if len({self._group(row) for row in found}) >= top_k or wanted == available:
                break
            wanted = min(2 * wanted, available)

        # Exact scores by the float32 vectors; ties are ordered by row
        products = self.store.vectors(found) * query  # [F, dimensions]
        identity, clothing = (half.sum(axis=1, dtype=np.float64) for half in np.split(products, 2, axis=1))  # [F] each
        clothing += 0.0  # turns -0.0 at β = 0 into 0.0
        scores = identity + clothing
        best: dict[str | int, int] = {}  # place of the first image of each content
        for place in np.lexsort((found, -scores)):
            best.setdefault(self._group(found[place]), int(place))
        order = list(best.values())[:top_k]
        root = self.manifest.image_root(index)
        likely = likelihoods(calibration, kind, scores[order], beta, available)
        threshold = absence_threshold(calibration, kind, beta, available)
        return [
            PersonHit(
                row=int(found[place]),
                path=root / metadata["path"],
                name=metadata["path"],
                score=float(scores[place]),
                identity_score=float(identity[place]),
                clothing_score=float(clothing[place]),
                metadata={name: value for name, value in metadata.items() if name != "path"},
                content=self.contents[found[place]],
                copies=self._copies(int(found[place]), rows),
                likelihood=None if likely is None else float(likely[number]),
                is_weak=None if threshold is None else bool(scores[place] < threshold),
            )
            for number, (place, metadata) in enumerate(zip(order, self.table.rows(found[order]), strict=True))
        ]
