"""Marks, filters by attributes and numbers, and re-ranking of the demo page, without a browser."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from data_pipeline.search import PersonGallery
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.feedback import move_query

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

from data_pipeline.search.demo.filters import menus, ranges
from data_pipeline.search.demo.page import SearchPage
from data_pipeline.search.demo.session import COMPARED, Session

from .page_events import SENTENCE, Tags, address_of, controls, event, noise, rows, texts


def searched(page: SearchPage, **given: Any) -> Session:
    session = page.new_session()
    page.ask(session, SENTENCE, *controls(page, **given))
    return session


def test_search_marks_moves_the_query(page: SearchPage, exact: PersonGallery) -> None:
    session = searched(page)
    names = [hit.name for hit in session.hits]
    for row, mark in ((20, "right"), (22, "right"), (0, "wrong"), (1, "wrong"), (1, "")):  # the last one is taken away
        answer = page.mark(session, event(row=rows(session)[row], mark=mark))
    assert "2 right, 1 wrong · not yet searched" in texts(page, answer).marks
    right, wrong = (np.array([exact.vector(exact.row_of(names[n])) for n in places]) for places in ([20, 22], [0]))
    expected = exact.search_vector(move_query(exact.embedder.embed_sentence(SENTENCE), right, wrong), 24)
    answer = page.search_marks(session, *controls(page))
    assert rows(session) == [hit.row for hit in expected] and session.hits[0].likelihood is None
    assert "moved by marks: 2 right, 1 wrong" in Tags(texts(page, answer).status).text
    # Filters keep the marks; the export and the address have them
    answer = page.refine(session, *controls(page, changed=100))
    with zipfile.ZipFile(page.tray.export(session)[page.layout.file]) as archive:
        record = json.loads(archive.read("hits.json"))["search"]
        table = list(csv.DictReader(io.StringIO(archive.read("hits.csv").decode("utf-8-sig"))))
    assert record["query"] == f"{SENTENCE}, moved by marks: 2 right, 1 wrong"
    assert (record["right"], record["wrong"]) == ([names[20], names[22]], [names[0]])
    assert {row["file"]: row["mark"] for row in table if row["mark"]} == {
        names[20]: "right", names[22]: "right", names[0]: "wrong"
    }  # fmt: skip
    other, found = page.new_session(), rows(session)
    restored = page.restore(other, event(address=address_of(page, answer)))
    assert rows(other) == found and "2 right, 1 wrong<" in texts(page, restored).marks
    page.clear_marks(other, *controls(page))
    assert rows(other) == rows(searched(page)) and other.marks == {}


def test_new_question_has_no_marks(page: SearchPage) -> None:
    session = searched(page)
    page.mark(session, event(row=rows(session)[3], mark="right"))
    page.search_marks(session, *controls(page))
    page.ask(session, "a man", *controls(page))
    assert session.marks == {} and session.query is not None and session.query.marks == {}
    for data in ({"row": 999, "mark": "right"}, {"row": rows(session)[0], "mark": "x"}, None):
        page.mark(session, type("Event", (), {"_data": data})())
    assert session.marks == {}


@pytest.fixture(scope="module")
def described(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A page of images with attributes of descriptions, and numbers: 0.0 to 29.5, and 0 to 59 as an integer."""
    folder = tmp_path_factory.mktemp("described")
    people = [
        {
            "image": noise(number),
            "identity_attributes": {"gender": ("man", "woman's")[number % 2], "age": "adult"},
            "speed": number / 2,
            "height": number,
        }
        for number in range(60)
    ]
    with PersonGallery.build(folder, Dataset.from_list(people), embedder, show_progress=False) as gallery:
        yield SearchPage(gallery)


def test_ask_filters_by_attributes_and_numbers(described: SearchPage) -> None:
    gallery = described._gallery
    assert menus(gallery) == {"identity_attributes.gender": ["man", "woman's"]}
    assert ranges(gallery, menus(gallery)) == {"speed": (0.0, 29.5), "height": (0, 59)}
    numbers = {"speed": "3..20.5", "height": "..30"}
    session = searched(described, chosen={"identity_attributes.gender": ["woman's"]}, numbers=numbers, count=96)
    assert sorted(hit.metadata["height"] for hit in session.hits) == list(range(7, 31, 2))
    answer = described.refine(session, *controls(described, numbers={"speed": "3.."}, count=96))
    assert len(session.hits) == 54 and "speed from 3" in Tags(texts(described, answer).status).text
    other = described.new_session()
    answer = described.restore(other, event(address=address_of(described, answer)))
    assert other.settings == session.settings and answer[described.layout.bounds[0]]["value"] == "3.."


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [
        ("2026-05-04T10:00", "2026-05-05", [4, 5]),
        ("2026-05-04T10:01", "2026-05-06T10:00", [5, 6]),
        ("", "2026-05-02T09:59", []),
    ],
)
def test_ask_filters_by_minutes(page: SearchPage, first: str, last: str, days: list[int]) -> None:
    """The images are of ten o'clock; the last minute is included."""
    session = searched(page, first=first, last=last)
    assert sorted(hit.metadata["time"].day for hit in session.hits) == days


def test_in_detail_reranks_the_first_hits(matching: Embedder, drawn_photos: Path, tmp_path: Path) -> None:
    with PersonGallery.build(tmp_path / "index", drawn_photos, matching, show_progress=False) as gallery:
        page = SearchPage(gallery)
        session = page.new_session()
        answer = page.ask(session, SENTENCE, *controls(page, in_detail=True, count=12))
        assert "the first 24 compared in detail" in texts(page, answer).status and len(session.hits) == 12
        session = searched(page, in_detail=True)
        assert rows(session) == [hit.row for hit in gallery.search_text(SENTENCE, 24, rerank=COMPARED)]
        assert rows(session) != [hit.row for hit in gallery.search_text(SENTENCE, 24)]
        assert session.record is not None and session.record.rerank == COMPARED
        page.panel.show(session, event(row=rows(session)[0]))
        status = texts(page, page.more_like(session, *controls(page, in_detail=True))).status
        assert "a picture without a sentence cannot be compared in detail" in status


def test_in_detail_is_hidden_without_a_matching_head(page: SearchPage) -> None:
    assert page.layout.in_detail.visible is False
    problem = texts(page, page.ask(page.new_session(), SENTENCE, *controls(page, in_detail=True))).problem
    assert "has no matching head" in problem
