"""Hits to hand on: a zip file with a table of them and their images."""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .gallery import PersonHit

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute what begins so


def export_hits(hits: Sequence[PersonHit], title: str, path: Path) -> Path:
    """Writes `hits.csv`, `hits.json` and `images/RANK_NAME` into a zip file.

    Images that are gone are left out; their column `image` is empty.

    Args:
        title: what was searched for.

    Raises:
        ValueError: there are no hits.
        OSError: the file cannot be written.
    """
    if not hits:
        raise ValueError("there are no hits to export: search first")
    columns = list(dict.fromkeys(name for hit in hits for name in hit.metadata))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["rank", "score", "identity_score", "clothing_score", "file", "image", *columns])
    entries = []
    with zipfile.ZipFile(path, "w") as archive:
        for rank, hit in enumerate(hits, start=1):
            image = f"images/{rank:03d}_{hit.path.name.replace(chr(92), chr(95))}"
            try:
                archive.writestr(image, hit.path.read_bytes())  # as they are: JPEG does not shrink further
            except OSError:
                image = ""
            scores = {"score": hit.score, "identity_score": hit.identity_score, "clothing_score": hit.clothing_score}
            numbers = [f"{value:.6f}" for value in scores.values()]
            cells = [_cell(value) for value in (hit.name, image, *map(hit.metadata.get, columns))]
            writer.writerow([rank, *numbers, *cells])
            entries.append({"rank": rank, **scores, "file": hit.name, "image": image, "metadata": hit.metadata})
        archive.writestr("hits.csv", table.getvalue())
        archive.writestr("hits.json", json.dumps({"search": title, "hits": entries}, indent=1, default=str))
    return path


def _cell(value: object) -> str:
    """A value for a spreadsheet, which takes it for text."""
    shown = "" if value is None else " | ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{shown}" if shown.startswith(_FORMULA) and not _is_number(shown) else shown


def _is_number(shown: str) -> bool:
    try:
        float(shown)
    except ValueError:
        return False
    return True
