"""Exports hits as a zip file with a CSV table, a JSON file and the images."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from modeling_bdam.files import atomic_path

from .hits import PersonHit
from .index.column_names import public_names
from .search_record import SearchRecord

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_hits(hits: Sequence[PersonHit], record: SearchRecord, path: Path) -> Path:
    """Writes `hits.csv`, `hits.json` and `images/RANK_NAME` to a zip file, atomically.

    `hits.json` contains the record of the search, so that the export can be repeated and defended: query, filters,
    clothing weight, index and model fingerprints, time. The column `file_status` says whether a file still has the
    content that was indexed: `unchanged`, `changed`, `missing` or `unknown`. `hits.csv` is UTF-8 with a byte order
    mark, for spreadsheets. A metadata column of the name of another column in it, such as `score`, is called
    `metadata_score` there.

    Raises:
        ValueError: there are no hits, or the name does not end in .zip.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() != ".zip":
        raise ValueError(f"the export is written as .zip, got {path.name}")
    if not hits:
        raise ValueError("there are no hits to export: search first")
    columns = list(dict.fromkeys(name for hit in hits for name in hit.metadata))
    table = io.StringIO()
    writer = csv.writer(table)
    shown = ["score", "identity_score", "clothing_score", "likelihood"]
    own = ["rank", *shown, "file", "image", "file_status", "sha256", "copies"]
    writer.writerow([*own, *public_names(columns, own).values()])
    entries = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for rank, hit in enumerate(hits, start=1):
            image, status = f"images/{rank:03d}_{hit.path.name.replace(chr(92), chr(95))}", "missing"
            with suppress(OSError):
                content = hit.path.read_bytes()
                archive.writestr(image, content)  # uncompressed: images are compressed already
                is_same = hit.content == hashlib.sha256(content).hexdigest()
                status = "unknown" if hit.content is None else "unchanged" if is_same else "changed"
            if status == "missing":
                image = ""
            scores = {name: getattr(hit, name) for name in shown}
            file = {"file": hit.name, "image": image, "file_status": status, "sha256": hit.content}
            file_and_copies = {**file, "copies": list(hit.copies)}
            cells = [_cell(value) for value in (*file_and_copies.values(), *map(hit.metadata.get, columns))]
            numbers = ("" if value is None else f"{value:.6f}" for value in scores.values())
            writer.writerow([rank, *numbers, *cells])
            entries.append({"rank": rank, **scores, **file_and_copies, "metadata": hit.metadata})
        archive.writestr("hits.csv", table.getvalue().encode("utf-8-sig"))
        search = {"search": asdict(record), "hits": entries}
        archive.writestr("hits.json", json.dumps(search, indent=1, ensure_ascii=False, default=str))
    return path


def _cell(value: object) -> str:
    """Formats a CSV cell; escapes text that a spreadsheet would evaluate as a formula (CSV formula injection)."""
    shown = "" if value is None else " | ".join(map(str, value)) if isinstance(value, list) else str(value)
    with suppress(ValueError):
        float(shown)
        return shown  # a number such as -1
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
