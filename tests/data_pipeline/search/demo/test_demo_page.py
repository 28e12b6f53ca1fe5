"""Questions and filters of the demo page, without a browser."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.search import PersonGallery, PersonHit

gr = pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

from data_pipeline.search.demo.filters import RANGES, conditions, example, menus, time_column  # noqa: E402
from data_pipeline.search.demo.page import SearchPage  # noqa: E402
from data_pipeline.search.demo.session import Session  # noqa: E402

from .page_events import SENTENCE, Tags, address_of, controls, event, rows, texts  # noqa: E402


@pytest.mark.parametrize(("changed", "share"), [(0, 1), (40, 0.6), (100, 0)])
def test_ask_uses_the_slider_as_clothing_weight(
    page: SearchPage, exact: PersonGallery, changed: int, share: float
) -> None:
    session = page.new_session()
    shown = texts(page, page.ask(session, SENTENCE, *controls(page, changed=changed)))
    beta = share * exact.manifest.clothing_weight
    expected = exact.search_text(SENTENCE, 24, beta)
    cards = [row for row in Tags(shown.grid).rows("card")]
    assert cards == rows(session) == [hit.row for hit in expected]
    assert SENTENCE in shown.status and f"clothing weight {beta:.2f}" in shown.status
    assert f"clothes {expected[0].clothing_score:.2f}" in shown.grid


def test_refine_repeats_the_query(page: SearchPage, exact: PersonGallery, session: Session) -> None:
    page.refine(session, *controls(page, changed=100, count=12, typed="person_id != 1"))
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 12, 0.0, "person_id != 1")]
    nothing = page.refine(page.new_session(), *controls(page, changed=50))  # before the first query
    assert list(nothing.values()) == [gr.skip()]


@pytest.mark.parametrize("typed", ["person_id == 1", "camra == 1"])
def test_refine_searches_once_for_each_entry(
    page: SearchPage, session: Session, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    """Enter and then leaving the field are two events of one entry, for a valid and an invalid filter."""
    searches: list[list[str]] = []
    found = page._gallery.search_vector

    def counted(*given: Any) -> list[PersonHit]:
        searches.append(given[3])
        return found(*given)

    monkeypatch.setattr(page._gallery, "search_vector", counted)
    for _ in range(3):
        page.refine(session, *controls(page, typed=typed))
    assert searches == [[typed]]


def test_status_and_menu_title_name_the_active_filters(page: SearchPage, session: Session) -> None:
    given = {"chosen": {"camera": ["1", "2"]}, "first": "2026-05-02", "typed": "person_id >= 0"}
    answer = page.refine(session, *controls(page, **given))
    status = Tags(texts(page, answer).status).text
    for words in ("camera: 1, 2", "time from 2026-05-02", "person_id >= 0"):
        assert words in status
    assert answer[page.layout.filters]["label"] == "Filters (3 active)"
    # An error keeps the line, since the hits are still those of the former filter
    answer = page.refine(session, *controls(page, typed="camra == 1"))
    assert page.layout.status not in answer
    # A field that was emptied, without Enter, is no filter any more
    answer = page.ask(session, SENTENCE, *controls(page))
    assert "Filter:" not in texts(page, answer).status and answer[page.layout.filters]["label"] == "Filters"


def test_clear_filters_keeps_query_and_slider(page: SearchPage, exact: PersonGallery, session: Session) -> None:
    page.refine(session, *controls(page, changed=100, typed="person_id == 1"))
    answer = page.clear_filters(session, *controls(page, changed=100, typed="person_id == 1"))
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 24, 0.0)]
    assert answer[page.layout.typed]["value"] == "" and answer[page.layout.changed]["value"] == 100


def test_ask_during_another_one_wins(page: SearchPage, exact: PersonGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sentence takes longer than the second, whose hits must stay."""
    session = page.new_session()
    started, answered = threading.Event(), threading.Event()
    embed = page._gallery.embedder.embed_sentence

    def slow(sentence: str) -> Any:
        if sentence == "a man":
            started.set()
            assert answered.wait(30)
        return embed(sentence)

    monkeypatch.setattr(page._gallery.embedder, "embed_sentence", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(page.ask, session, "a man", *controls(page))
        assert started.wait(30)
        second = page.ask(session, SENTENCE, *controls(page))
        answered.set()
        assert list(first.result(30).values()) == [gr.skip()]
    assert SENTENCE in texts(page, second).status
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 24)]


def test_refine_during_a_question_applies_to_it(
    page: SearchPage, exact: PersonGallery, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that changes while a sentence is embedded must not bring back the former sentence."""
    embed = page._gallery.embedder.embed_sentence

    def interrupted(sentence: str) -> Any:
        monkeypatch.undo()
        page.refine(session, *controls(page, typed="person_id == 1"))
        return embed(sentence)

    monkeypatch.setattr(page._gallery.embedder, "embed_sentence", interrupted)
    page.ask(session, "a man", *controls(page))
    assert rows(session) == [hit.row for hit in exact.search_text("a man", 24, where="person_id == 1")]


def test_ask_picture_and_more_like_search_by_image(page: SearchPage, exact: PersonGallery, tmp_path: Path) -> None:
    session = page.new_session()
    upload = Path(shutil.copy(exact.path(5), tmp_path / "query.jpg"))
    page.ask_picture(session, str(upload), *controls(page))
    assert rows(session) == [hit.row for hit in exact.search_image(exact.path(5), 24)]  # without itself
    assert not upload.exists()  # deleted after embedding
    page.panel.show(session, event(row=rows(session)[3]))
    shown = session.hits[3]
    status = texts(page, page.more_like(session, *controls(page))).status
    assert len(rows(session)) == 23 and shown.row not in rows(session)
    assert "<img src='data:image/jpeg;base64," in status and shown.name in status


def test_submit_composes_the_shown_picture_and_words(page: SearchPage, exact: PersonGallery, tmp_path: Path) -> None:
    session = page.new_session()
    page.submit(session, "a man", True, *controls(page))  # there is no picture yet
    assert rows(session) == [hit.row for hit in exact.search_text("a man", 24)]
    answer = page.ask_picture(session, str(shutil.copy(exact.path(5), tmp_path / "query.jpg")), *controls(page))
    assert answer[page.layout.composed]["visible"]
    page.submit(session, SENTENCE, True, *controls(page))
    answer = page.submit(session, "a green coat", True, *controls(page))  # replaces the words, and keeps the picture
    assert rows(session) == [hit.row for hit in exact.search_composed(exact.path(5), "a green coat", 24)]
    assert "like this picture, a green coat" in texts(page, answer).status
    found, address = rows(session), address_of(page, answer)
    page.submit(session, SENTENCE, False, *controls(page))
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 24)]
    assert page.restore(session, event(address=address))[page.layout.sentence] == "a green coat"
    assert rows(session) == found


def test_restore_brings_back_a_search_from_its_address(
    page: SearchPage, exact: PersonGallery, session: Session
) -> None:
    given = {
        "changed": 40,
        "count": 12,
        "typed": "person_id <> 3 ",
        "last": "2026-05-20",
        "chosen": {"camera": ["1", "2"]},
    }
    address = address_of(page, page.refine(session, *controls(page, **given)))
    expected = rows(session)
    other = page.new_session()  # another window
    answer = page.restore(other, event(address=address))
    assert rows(other) == expected and address_of(page, answer) == address
    assert answer[page.layout.sentence] == SENTENCE
    values = [answer[control]["value"] for control in page.layout.controls if control in answer]
    bounds = [""] * RANGES
    assert values == [40, 12, False, False, "person_id <> 3 ".strip(), "", "2026-05-20", *bounds, [], ["1", "2"]]
    # The controls that were set send their changes, which are no further searches
    assert list(page.refine(other, *controls(page, **given)).values()) == [gr.skip()]


def test_restore_goes_back_from_more_like_this(page: SearchPage, exact: PersonGallery, session: Session) -> None:
    before, text = rows(session), "?q=" + SENTENCE.replace(" ", "+")
    page.panel.show(session, event(row=before[3]))
    like = address_of(page, page.more_like(session, *controls(page)))
    found = rows(session)
    page.restore(session, event(address=text))
    assert rows(session) == before
    page.restore(session, event(address=like))
    assert rows(session) == found != before
    answer = page.restore(session, event(address=""))
    assert "ready to be searched" in texts(page, answer).grid and session.hits == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("?like=gone.jpg", "gone.jpg"),
        ("?picture=0123", "upload it again"),
        ("?q=a+man&show=7", "show 12, 24, 48, 96 images"),
        ("?q=a+man&changed=nan", "the slider goes from 0 to 100"),
        ("?q=a+man&page=x", "the address of this page"),
        ("?q=a+man&page=9", "none on page 9"),
        ("?q=a+man&from=yesterday", "'yesterday' is not a day"),
        ("?q=a+man&from=2026-05-09T10:00&to=2026-05-08", "is after the last one"),
        ("?q=a+man&between.camera=1..x", "the address of this page: camera: a bound must be a number"),
        ("?q=a+man&between.camera=nan..", "a bound must be a number"),
        ("?q=a+man&between.camera=2..1", "the lower bound, 2, is above the upper one, 1"),
        ("?q=a+man&right=gone.jpg", "the index no longer has the image gone.jpg"),
        ("?q=a+man&is.nowhere=1", "nowhere"),
        ("?q=" + "a" * 40_000, "the limit is 30000"),
    ],
)
def test_restore_shows_an_error_for_a_bad_address(page: SearchPage, address: str, message: str) -> None:
    answer = page.restore(page.new_session(), event(address=address))
    assert message in Tags(texts(page, answer).problem).text
    assert page.layout.grid not in answer


def test_turn_page_shows_the_next_hits(page: SearchPage, exact: PersonGallery) -> None:
    session = page.new_session()
    answer = page.ask(session, SENTENCE, *controls(page, count=12))
    assert answer[page.layout.next]["visible"] is True and answer[page.layout.previous]["visible"] is False
    answer = page.turn_page(1, session)
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 24)][12:]
    assert "hits 13 to 24" in texts(page, answer).status
    assert answer[page.layout.next]["visible"] is False and answer[page.layout.previous]["visible"] is True
    assert "Hit 13" in texts(page, page.panel.show(session, event(row=rows(session)[0]))).large


def test_menus_are_columns_with_few_values(exact: PersonGallery) -> None:
    assert list(menus(exact)) == ["person_id", "camera"]
    assert menus(exact)["person_id"] == ["0", "1", "2", "3"]
    assert time_column(exact) == "time"


def test_example_is_a_filter_that_finds_images(exact: PersonGallery) -> None:
    assert "person_id" in example(exact)
    assert exact.search_text(SENTENCE, where=example(exact))


def test_ask_combines_all_filters(page: SearchPage, exact: PersonGallery) -> None:
    """Both days are included."""
    session = page.new_session()
    cameras = [str(value) for value in exact.values("camera")[:2]]
    given = {"chosen": {"camera": cameras}, "first": "2026-05-04", "last": "2026-05-20", "typed": "path <> ''"}
    page.ask(session, SENTENCE, *controls(page, **given))
    where = f"camera in ({','.join(cameras)}) and time >= '2026-05-04' and time < '2026-05-21'"
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 24, where=where)]
    assert 0 < len(rows(session)) < 24
    page.ask(session, SENTENCE, *controls(page, first="2026-05-20", last="2026-05-20"))
    assert [hit.metadata["time"].day for hit in session.hits] == [20]


@pytest.mark.parametrize("typed", ["true) or (true", "camera == 1 or 2", "person_id", "1/0"])
def test_typed_filter_cannot_cancel_the_menus(page: SearchPage, session: Session, typed: str) -> None:
    before = rows(session)
    answer = page.refine(session, *controls(page, chosen={"camera": ["1"]}, typed=typed))
    assert "the filter" in texts(page, answer).problem
    assert rows(session) == before


def test_conditions_prevent_sql_injection_by_values(exact: PersonGallery) -> None:
    for value in ("x') OR ('' = '", "x' --", "'; DROP TABLE gallery; --", '"'):
        where = conditions(exact, {"camera": [value]}, {}, "", "", "")
        assert exact.search_text(SENTENCE, where=where) == []


def test_ask_shows_a_message_without_hits(page: SearchPage) -> None:
    session = page.new_session()
    answer = page.ask(session, SENTENCE, *controls(page, typed="camera == 99"))
    shown = texts(page, answer)
    assert "No image matches the filter." in shown.grid and "camera == 99" in shown.status
    assert session.hits == [] and answer[page.layout.export]["visible"] is False


@pytest.mark.parametrize(
    ("sentence", "given", "message"),
    [
        ("  ", {}, "the sentence is empty"),
        ("穿红色外套的女人", {}, "the model's vocabulary has no word of"),
        (SENTENCE, {"typed": "camra = 1"}, "did you mean camera"),
        (SENTENCE, {"typed": "'; DROP TABLE gallery"}, "the filter"),
        (SENTENCE, {"first": "yesterday"}, "'yesterday' is not a day such as 2026-05-31"),
        (SENTENCE, {"count": 10**9}, "show 12, 24, 48, 96 images"),
        (SENTENCE, {"changed": -1000}, "the slider goes from 0 to 100"),
        (SENTENCE, {"changed": "a"}, "the slider goes from 0 to 100"),
        ("word " * 10_000, {}, "the limit is 20000"),
    ],
)
def test_ask_shows_an_error_and_keeps_the_last_hits(
    page: SearchPage, session: Session, sentence: str, given: dict[str, Any], message: str
) -> None:
    before = rows(session)
    answer = page.ask(session, sentence, *controls(page, **given))
    assert message in Tags(texts(page, answer).problem).text
    assert list(answer) == [page.layout.problem]
    assert rows(session) == before
    # The slider refers to the shown hits again
    page.refine(session, *controls(page, changed=100))
    assert session.query is not None and session.query.title == SENTENCE


def test_ask_notes_a_truncated_sentence(page: SearchPage) -> None:
    session = page.new_session()
    status = texts(page, page.ask(session, "a woman in a red coat " * 170, *controls(page))).status
    assert len(session.hits) == 24
    assert "the model reads the first 32" in status
    assert len(Tags(status).text) < 1000


def test_ask_picture_hides_the_path_of_a_bad_upload(page: SearchPage, tmp_path: Path) -> None:
    file = tmp_path / "query.jpg"
    file.write_text("no picture")
    problem = texts(page, page.ask_picture(page.new_session(), str(file), *controls(page))).problem
    assert "the picture: no image of a known format" in problem
    assert str(tmp_path) not in problem
    assert not file.exists()
