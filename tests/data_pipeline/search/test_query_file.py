"""`bdam search --queries` and `--offset`: many queries of a table, compared with single searches."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app
from data_pipeline.search import PersonGallery
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.query_file import TableQuery, read_queries, search_queries, write_results

SENTENCES = ["a young woman in a red coat and blue jeans", "a man in a black coat, short grey hair", "an old man"]


def search(gallery: PersonGallery, *arguments: object) -> Result:
    command = ["search", "--index", gallery.index, "--device", "cpu", *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in command])


@pytest.fixture
def table(exact: PersonGallery, tmp_path: Path) -> Path:
    """Three sentences, a picture, and a picture with a sentence."""
    picture = exact.path(4)
    rows: list[dict[str, Any]] = [{"id": f"q{n}", "sentence": sentence} for n, sentence in enumerate(SENTENCES)]
    rows += [{"id": "p", "image": str(picture)}, {"id": "both", "image": str(picture), "sentence": SENTENCES[0]}]
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def expected(gallery: PersonGallery, row: dict[str, Any], top_k: int, where: str | None) -> list[int]:
    return [hit.row for hit in gallery.search_composed(row["image"], row["sentence"], top_k, 0.5, where)]


@pytest.mark.parametrize(("offset", "where"), [(0, None), (2, "camera > 1"), (30, None)])
def test_search_queries_equal_single_searches(
    exact: PersonGallery, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, where: str | None
) -> None:
    monkeypatch.setattr("data_pipeline.search.query_file._BATCH", 2)
    results = search_queries(exact, read_queries(table, exact.embedder, []), 3, offset, 0.5, where)
    write_results(results, tmp_path / "hits.jsonl", offset)
    found = [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == ["q0", "q1", "q2", "p", "both"]
    for row in found:
        assert [hit["row"] for hit in row["hits"]] == expected(exact, row, 3 + offset, where)[offset:]
        assert [hit["rank"] for hit in row["hits"]] == list(range(offset + 1, offset + 1 + len(row["hits"])))


def test_search_queries_rerank_and_keep_likely_hits(matching: Embedder, drawn_photos: Path, tmp_path: Path) -> None:
    curve = {"slopes": [9.0], "intercepts": [0.0], "thresholds": [0.9], "growths": [0.0]}
    matching.model.config.score_calibration = {"images": 24, "clothing_weights": [1.0], "text": curve}
    queries = [TableQuery(row, None, sentence, None) for row, sentence in enumerate(SENTENCES, 1)]
    with PersonGallery.build(tmp_path / "index", drawn_photos, matching, show_progress=False) as gallery:
        for query, hits, is_absent in search_queries(gallery, queries, 4, 1, rerank=20, min_likelihood=0.5):
            everything = gallery.search_text(query.sentence or "", 24, rerank=20)
            likely = [hit for hit in everything if (hit.likelihood or 0) >= 0.5]
            assert [hit.row for hit in hits] == [hit.row for hit in likely[:5]]
            assert is_absent
        assert 5 < len(likely) < 20


def test_search_writes_parquet_rows_with_metadata(exact: PersonGallery, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(f"sentence\n{SENTENCES[0].split(' and')[0]}\n{SENTENCES[2]}\n")
    result = search(exact, "--queries", tmp_path / "q.csv", "--output", tmp_path / "hits.parquet", "--top-k", 3)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'hits.parquet'}: the hits of 2 queries\n"
    rows = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [(row["query_row"], row["rank"]) for row in rows] == [(n, rank) for n in (1, 2) for rank in (1, 2, 3)]
    hits = exact.search_text(SENTENCES[2], 3)
    for row, hit in zip(rows[3:], hits, strict=True):
        assert (row["name"], row["score"]) == (hit.name, pytest.approx(hit.score, abs=1e-5))
        assert {name: row[name] for name in hit.metadata} == hit.metadata


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "id,sentence,image\n1,a man,\n2,,\n", "q.csv, line 3: there is no sentence and no image"),
        ("q.csv", "sentence,image\na man,\n,gone.jpg\n", "q.csv, line 3: the image gone.jpg: there is no such file"),
        ("q.csv", "image\nq.csv\n", "q.csv, line 2: the image q.csv: no image of a known format"),
        (
            "q.jsonl",
            '{"sentence": "a man"}\n{"sentence": "穿红色外套"}',
            "q.jsonl, line 2: the model's vocabulary has no",
        ),
        ("q.jsonl", '{"sentence": " "}', "q.jsonl, line 1: the sentence is empty"),
        ("q.jsonl", '{"sentence": 7}', "q.jsonl, line 1: sentence is 7, not a string"),
        ("q.csv", "sentense\na man\n", "there is no column `sentence` or `image`; the columns are sentense; did you"),
        ("q.csv", "sentence\n", "the file has no rows"),
        ("q.txt", "a man", "queries are read from .csv"),
    ],
)
def test_search_names_the_line_of_a_bad_query(
    exact: PersonGallery, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    output = tmp_path / "hits.jsonl"
    output.write_text("earlier")
    result = search(exact, "--queries", tmp_path / name, "--output", output)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert output.read_text() == "earlier" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queries", "{table}", "a man"], "--queries excludes a sentence"),
        (["--queries", "{table}", "--output", "hits.csv"], "hits are written as .jsonl or .parquet"),
        (["--queries", "{table}", "--output", "nowhere/hits.jsonl"], "there is no folder nowhere"),
        (["--queries", "{table}", "--where", "camra = 1"], "did you mean camera"),
        (["--queries", "{table}", "--rerank", "3"], "query 4 has no sentence for the clothes to re-rank by"),
        (["--queries", "{table}", "--min-likelihood", "0.5"], "these hits have no likelihood"),
        (["--output", "hits.jsonl", "a man"], "--output needs --queries"),
        (["--offset", "2", "--sheet", "a.png", "a man"], "leave out --offset"),
    ],
)
def test_search_refuses_options_that_exclude_each_other(
    exact: PersonGallery, table: Path, options: list[str], message: str
) -> None:
    result = search(exact, *(option.format(table=table) for option in options))
    assert result.exit_code == 1 and message in result.stderr


def test_search_with_offset_continues_the_ranks(exact: PersonGallery) -> None:
    pages = [search(exact, SENTENCES[0], "--top-k", 5, "--offset", offset, "--json") for offset in (0, 5, 22)]
    hits = [json.loads(page.stdout) for page in pages]
    assert [hit["rank"] for hit in hits[0] + hits[1]] == list(range(1, 11))
    assert [hit["name"] for hit in hits[0] + hits[1]] == [hit.name for hit in exact.search_text(SENTENCES[0], 10)]
    assert len(hits[2]) == 2 and "there are 24 images" in pages[2].stderr
