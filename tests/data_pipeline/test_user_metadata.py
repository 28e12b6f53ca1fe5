"""A user's metadata file has the same rules in training (a `folder`) and in the search index."""

import codecs
import io
import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from data_pipeline import load_person_dataset
from data_pipeline.search.gallery import PersonHit, group_by_person
from data_pipeline.search.hits_export import export_hits
from data_pipeline.search.index.sources import images_in_folder, public_names
from data_pipeline.search.metadata_table import MetadataTable
from data_pipeline.search.search_record import SearchRecord

from .benchmarks import layouts

Read = Callable[..., tuple[dict[str, list[Any]], str]]
HEAD = "file_name,person_id,caption\n"


@pytest.fixture(params=["training", "index"])
def read(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Read:
    """Writes a folder and reads it: the values of person and caption, sorted by path, and all notes."""

    def write_and_read(
        content: str | bytes, name: str = "metadata.csv", images: tuple[str, ...] = ("a.png", "b.png")
    ) -> tuple[dict[str, list[Any]], str]:
        folder = layouts.write_names(tmp_path / "mine", images)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if request.param == "index":
            source = images_in_folder(folder)
            columns, notes = source.table.to_pydict(), "\n".join(source.notes)
            return columns, notes
        options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "skip_unreadable": True}
        rows = load_person_dataset("folder", folder, **options)["test"].remove_columns("image")
        rows = sorted(rows, key=lambda row: row["file_path"])
        columns = {"path": [row["file_path"] for row in rows], "person_id": [row["person_id"] for row in rows]}
        return columns | {"caption": [(row["captions"] or [None])[0] for row in rows]}, caplog.text

    return write_and_read


ROWS = 'file_name,person_id,caption\na.png,7,"Größe, ""l"""\nb.png,9,"two;\nlines"\n'
PLAIN = "file_name;person_id;caption\na.png;7;Größe, l\nb.png;9;\n"


@pytest.mark.parametrize(
    ("content", "name", "noted"),
    [
        (ROWS.encode(), "metadata.csv", ""),
        (ROWS.replace(",", ", ").replace(",  ", ", ").encode(), "metadata.csv", ""),
        (ROWS.replace("\n", "\r\n").encode(), "metadata.csv", ""),
        (codecs.BOM_UTF8 + ROWS.encode(), "metadata.csv", ""),
        (codecs.BOM_UTF16_LE + ROWS.encode("utf-16-le"), "metadata.csv", ""),
        (codecs.BOM_UTF16_BE + ROWS.encode("utf-16-be"), "metadata.csv", ""),
        (ROWS.encode("latin-1"), "metadata.csv", "line 2: byte 0xf6 at offset 39 is not UTF-8: read as Windows-1252"),
        (PLAIN.encode(), "metadata.csv", ""),
        (b"sep=;\r\n" + PLAIN.encode(), "metadata.csv", ""),
        (PLAIN.replace(";", "\t").encode(), "metadata.csv", ""),
        (PLAIN.replace(";", "\t").encode(), "metadata.tsv", ""),
        (f"\n{PLAIN}\n;;\n".encode(), "metadata.csv", ""),
        (f";{PLAIN}".replace("\n", "\n0;", 2).encode(), "metadata.csv", "a column without a name"),
    ],
)
def test_metadata_in_usual_encodings(content: bytes, name: str, noted: str, read: Read) -> None:
    columns, notes = read(content, name)
    assert columns["person_id"] == [7, 9]
    assert columns["caption"][0].replace('"', "") == "Größe, l"
    second = columns["caption"][1]
    assert second is None or second.split() == ["two;", "lines"]
    assert noted in notes
    assert noted or ("UTF-8" not in notes and "without a name" not in notes)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (f'{HEAD}a.png,1,"x\ny"\nb.png,2\n', "metadata.csv", "metadata.csv, line 4: the number of cells differs"),
        (f"{HEAD}a.png,1,x,\n", "metadata.csv", "line 2: the number of cells differs from the first line, 4 instead"),
        (f'{HEAD}a.png,1,x\nb.png,2,"y\n', "metadata.csv", "metadata.csv, line 3: no valid CSV"),
        ("file_name,zone,zone\na.png,1,2\n", "metadata.csv", "line 1: there are two columns 'zone'; rename one"),
        ("file_nam,zone\na.png,1\n", "metadata.csv", "no column `file_name`; the columns are file_nam, zone; did you"),
        ("", "metadata.csv", "metadata.csv: the file has no rows"),
        (HEAD, "metadata.csv", "metadata.csv: the file has no rows"),
        (f"{HEAD}a.png,1,x\na.png,1,y\n", "metadata.csv", "line 3 (a.png): "),
        (f"{HEAD}../a.png,1,x\n", "metadata.csv", "line 2 (../a.png): the path '../a.png' leaves the data folder"),
        (f"{HEAD},1,x\n", "metadata.csv", "line 2: file_name is None, not a string"),
        (ROWS.encode("utf-16-le"), "metadata.csv", "line 1: it contains a zero byte, so it is not UTF-8 text"),
        ("no json", "metadata.jsonl", "metadata.jsonl, line 1: no valid JSON"),
        ('{"file_name": "a.png"}\n[]', "metadata.jsonl", "metadata.jsonl, line 2: expected a JSON object"),
        ('{"file_name": "a.png", "caption": "\\ud800"}', "metadata.jsonl", "line 1: caption contains half a character"),
        ("no table", "metadata.parquet", "metadata.parquet: no valid Parquet"),
    ],
)
def test_invalid_metadata_is_one_line_with_its_place(content: str, name: str, message: str, read: Read) -> None:
    with pytest.raises(ValueError, match="metadata") as caught:
        read(content, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["NA", "null", "nan", "None", "N/A", "NULL", "-", "#N/A"])
def test_only_an_empty_cell_is_missing(word: str, read: Read) -> None:
    columns, _ = read(f"{HEAD}a.png,{word},{word}\nb.png,,\n")
    assert columns["caption"] == [word, None]
    assert columns["person_id"] in ([word, None], [0, -1])


def test_identifiers_keep_leading_zeros(read: Read) -> None:
    images = ("a.png", "b.png", "c.png", "d.png")
    columns, _ = read(f"{HEAD}a.png,01,007\nb.png,1,8\nc.png,01,\nd.png,-1,\n", images=images)
    assert columns["caption"][:2] == ["007", "8"]
    assert columns["person_id"] in (["01", "1", "01", "-1"], [0, 1, 0, -1])
    hits = [PersonHit(row, Path(), "", 0, 0, 0, {"person_id": each}) for row, each in enumerate(columns["person_id"])]
    assert [[hit.row for hit in group.hits] for group in group_by_person(hits)] == [[0, 2], [1], [3]]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_column_has_one_type_in_a_large_file(form: str, read: Read) -> None:
    rows = [[f"{row}.png", row, "x" * 60] for row in range(17_000)]
    rows += [["a.png", 5, "two\nlines"], ["b.png", "guest", "7"]]
    if form == "csv":
        content = "file_name,person_id,caption,split\n" + "".join(f'{n},{p},"{c}",test\n' for n, p, c in rows)
    else:
        names = ("file_name", "person_id", "caption", "split")
        content = "\n".join(json.dumps(dict(zip(names, [*row, "test"], strict=True))) for row in rows)
    assert len(content) > 1.3 * 2**20
    columns, _ = read(content, f"metadata.{form}")
    assert columns["caption"] == ["two\nlines", "7"]
    alphabetical = sorted(map(str, range(17_000))).index("5")
    assert columns["person_id"] in (["5", "guest"], [alphabetical, 17_000])


def test_mixed_json_values_become_text(read: Read) -> None:
    rows = [{"file_name": "a.png", "person_id": 7, "caption": 2**70, "tag": ["x"]}]
    rows += [{"file_name": "b.png", "person_id": "x", "caption": "y", "tag": {"z": {}}}]
    columns, notes = read("\n".join(map(json.dumps, rows)), "metadata.jsonl")
    assert columns["caption"] == [str(2**70), "y"]
    assert columns["person_id"] in (["7", "x"], [0, 1])
    assert columns.get("tag", ['["x"]', '{"z": {}}']) == ['["x"]', '{"z": {}}']
    assert "metadata.jsonl: the column 'person_id' is text, since its values have no common type" in notes


def test_parquet_of_pandas_keeps_its_types(read: Read) -> None:
    table = pd.DataFrame(
        {"file_name": ["a.png", "b.png"], "person_id": [7, None], "caption": pd.Categorical(["007", ""])},
        index=["x", "y"],
    )
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    columns, _ = read(buffer.getvalue(), "metadata.parquet")
    assert columns["person_id"] in ([7, None], [7, -1])
    assert columns["caption"] == ["007", None]
    assert not any("index" in name for name in columns)


def test_equal_rows_are_merged_with_a_note(read: Read) -> None:
    columns, notes = read(f"{HEAD}a.png,1,x\nb.png,2,y\n./a.png,1,x\n")
    assert (columns["person_id"], columns["caption"]) == ([1, 2], ["x", "y"])
    assert "metadata.csv, line 4 (./a.png) equals line 2: 1 repeated rows are left out" in notes


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("IMG.JPG", "img.jpg"),
        ("cam1\\IMG.jpg", "Cam1/img.jpg"),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png")),
        ('" img.jpg "', "img.jpg"),
    ],
)
def test_file_name_in_another_spelling_is_matched(written: str, image: str, read: Read) -> None:
    columns, notes = read(f"{HEAD}{written},1,x\nb.png,2,y\n", images=(image, "b.png"))
    assert dict(zip(columns["path"], columns["person_id"], strict=True)) == {image: 1, "b.png": 2}
    assert f", but the image is {image}: matched" in notes


def test_file_name_that_fits_two_images_is_reported(read: Read) -> None:
    images = ("IMG.jpg", "img.jpg", "b.png")
    columns, notes = read(f"{HEAD}Img.JPG,1,x\nb.png,2,y\n", images=images)
    assert "1 file names fit several images, such as Img.JPG: " in notes
    assert dict(zip(columns["path"], columns["person_id"], strict=True))["b.png"] == 2
    assert 1 not in columns["person_id"]


def test_index_filters_and_exports_columns_of_any_name(tmp_path: Path) -> None:
    folder = layouts.write_names(tmp_path / "mine", ["a.png", "b.png"])
    head = "file_name,path,score,select,image,_size,Zone,zone,order"
    (folder / "metadata.csv").write_text(f"{head}\na.png,p,0.5,x,i,3,N,n,1\nb.png,q,0.7,y,j,4,S,s,2\n")
    source = images_in_folder(folder)
    assert "the column 'path' is called 'metadata_path' in filters and results: its name is taken" in source.notes[0]
    table = MetadataTable(source.table)
    try:
        for where in ("metadata_path == 'q'", "\"select\" == 'y'", "score > 0.6", "image == 'j'", '"order" == 2'):
            assert table.select(where).tolist() == [1], where
        assert table.select("metadata_size == 4 and metadata_zone == 's' and path == 'b.png'").tolist() == [1]
        [row] = table.rows(pa.array([1]).to_numpy())
    finally:
        table.close()
    hit = PersonHit(1, folder / "b.png", row.pop("path"), 0.25, 0.25, 0, row)
    record = SearchRecord("query", None, [], 1.0, 1, "", "", "", 2, "", "", "", "UTC", "")
    with zipfile.ZipFile(export_hits([hit], record, tmp_path / "hits.zip")) as archive:
        exported = pd.read_csv(io.BytesIO(archive.read("hits.csv")))
    assert exported.columns.is_unique
    shown = exported[["score", "metadata_score", "file", "image", "metadata_image", "metadata_path", "select"]]
    assert shown.to_numpy().tolist() == [[0.25, 0.7, "b.png", "images/001_b.png", "j", "q", "y"]]


def test_public_names_are_unique_in_sql() -> None:
    names = ["Path", "metadata_Path", "a", "A", "__x", ""]
    assert public_names(names) == dict(
        zip(names, ["metadata_Path_", "metadata_Path", "a", "metadata_A", "metadata_x", "metadata_"], strict=True)
    )
