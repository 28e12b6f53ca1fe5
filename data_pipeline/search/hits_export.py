"""Exports hits as a zip file with a CSV table, a JSON file and the images."""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .gallery import PersonHit
from .index.sources import public_names

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_hits(hits: Sequence[PersonHit], title: str, path: Path) -> Path:
    """Writes `hits.csv`, `hits.json` and `images/RANK_NAME` to a zip file.

    Missing image files are left out, with an empty column `image`. A metadata column of the name of another column in
    the CSV file, such as `score`, is called `metadata_score` there. The title, in `hits.json`, is the query.

    Raises:
        ValueError: there are no hits.
        OSError: the file cannot be written.
    """
    if not hits:
        raise ValueError("there are no hits to export: search first")
    columns = list(dict.fromkeys(name for hit in hits for name in hit.metadata))
    table = io.StringIO()
    writer = csv.writer(table)
    own = ["rank", "score", "identity_score", "clothing_score", "file", "image"]
    writer.writerow([*own, *public_names(columns, own).values()])
    entries = []
    with zipfile.ZipFile(path, "w") as archive:
        for rank, hit in enumerate(hits, start=1):
            image = f"images/{rank:03d}_{hit.path.name.replace(chr(92), chr(95))}"  # backslash to underscore
            try:
                archive.writestr(image, hit.path.read_bytes())  # uncompressed: images are compressed already
            except OSError:
                image = ""
            scores = {"score": hit.score, "identity_score": hit.identity_score, "clothing_score": hit.clothing_score}
            cells = [_cell(value) for value in (hit.name, image, *map(hit.metadata.get, columns))]
            writer.writerow([rank, *(f"{value:.6f}" for value in scores.values()), *cells])
            entries.append({"rank": rank, **scores, "file": hit.name, "image": image, "metadata": hit.metadata})
        archive.writestr("hits.csv", table.getvalue())
        archive.writestr("hits.json", json.dumps({"search": title, "hits": entries}, indent=1, default=str))
    return path


def _cell(value: object) -> str:
    """Formats a CSV cell; escapes text that a spreadsheet would evaluate as a formula (CSV formula injection)."""
    shown = "" if value is None else " | ".join(map(str, value)) if isinstance(value, list) else str(value)
    with suppress(ValueError):
        float(shown)
        return shown  # a number such as -1
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
