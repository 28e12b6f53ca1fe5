"""The zip file of exported hits."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest

from data_pipeline.search import PersonGallery
from data_pipeline.search.hits_export import export_hits

SENTENCE = "a young woman in a red coat and blue jeans"


def test_export_hits_writes_tables_and_images(exact: PersonGallery, tmp_path: Path) -> None:
    hits, record = exact.search_text(SENTENCE, 3), exact.record(SENTENCE, top_k=3)
    hits[0].metadata["note"] = "=HYPERLINK(1)"
    hits[1].metadata["note"] = "-1"
    with zipfile.ZipFile(export_hits(hits, record, tmp_path / "hits.zip")) as archive:
        table = list(csv.DictReader(io.StringIO(archive.read("hits.csv").decode("utf-8-sig"))))
        found = json.loads(archive.read("hits.json"))
        for row, hit in zip(table, hits, strict=True):
            assert archive.read(row["image"]) == hit.path.read_bytes()
            assert row["file"] == hit.name
            assert float(row["score"]) == pytest.approx(hit.score, abs=1e-6)
            assert row["person_id"] == str(hit.metadata["person_id"])
            assert row["file_status"] == "unchanged"
    assert [row["note"] for row in table] == ["'=HYPERLINK(1)", "-1", ""]  # CSV formula injection
    assert found["search"]["query"] == SENTENCE
    assert [entry["metadata"]["camera"] for entry in found["hits"]] == [hit.metadata["camera"] for hit in hits]
    with pytest.raises(ValueError, match="search first"):
        export_hits([], record, tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()


def test_record_has_the_digest_of_a_picture(exact: PersonGallery) -> None:
    file, image = exact.path(3), exact.image(3)
    assert exact.record(file).picture_sha256 == exact.search_row(3, top_k=1)[0].content
    assert exact.record(image).picture_sha256 == exact.record(image.copy()).picture_sha256
    assert exact.record(image).picture_sha256 != exact.record(exact.image(4)).picture_sha256
