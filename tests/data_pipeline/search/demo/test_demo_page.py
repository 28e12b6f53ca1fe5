"""Event handlers and HTML of the demo page, without a browser."""

import csv
import html.parser
import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from data_pipeline.search import PersonGallery
from data_pipeline.search.embedder import Embedder

gr = pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

from data_pipeline.search.demo.filters import expression, menus, time_column  # noqa: E402
from data_pipeline.search.demo.page import SearchPage, Session  # noqa: E402
from data_pipeline.search.hits_export import export_hits  # noqa: E402

SENTENCE = "a young woman in a red coat and blue jeans"
TAGS = {"p", "b", "div", "button", "span", "img", "h2", "dl", "dt", "dd", "br"}
HOSTILE = ["<img src=x onerror=alert(1)>.jpg", "${alert(1)}.jpg", "{{constructor}}`.jpg", "a' onfocus='alert(1).jpg"]


@pytest.fixture(scope="module")
def page(exact: PersonGallery) -> SearchPage:
    return SearchPage(exact)


@pytest.fixture
def session(page: SearchPage) -> Session:
    """A session after one search."""
    session = Session()
    page.ask(session, SENTENCE, *controls(page))
    return session


def controls(page: SearchPage, **given: Any) -> list[Any]:
    """The values of the controls, in their order."""
    values = {"changed": 0, "count": 24, "grouped": False, "typed": "", "first": "", "last": "", **given}
    chosen = values.pop("chosen", {})
    return [*values.values(), *(chosen.get(column, []) for column in page._menus)]


def show(page: SearchPage, session: Session, data: Any) -> list[Any]:
    return page.show(session, SimpleNamespace(_data=data))  # type: ignore[arg-type]


def rows(session: Session) -> list[int]:
    return [hit.row for hit in session.hits]


class Tags(html.parser.HTMLParser):
    """Collects the elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def rows(self) -> list[int]:
        return [int(str(attributes["data-row"])) for _, attributes in self.elements if "data-row" in attributes]


@pytest.mark.parametrize(("changed", "share"), [(0, 1), (40, 0.6), (100, 0)])
def test_ask_uses_the_slider_as_clothing_weight(
    page: SearchPage, exact: PersonGallery, changed: int, share: float
) -> None:
    session = Session()
    status, grid, *_ = page.ask(session, SENTENCE, *controls(page, changed=changed))
    beta = share * exact.manifest.clothing_weight
    expected = exact.search_text(SENTENCE, 24, beta)
    assert Tags(grid).rows() == rows(session) == [hit.row for hit in expected]
    assert SENTENCE in status and f"clothing weight {beta:.2f}" in status
    assert f"clothes {expected[0].clothing_score:.2f}" in grid


def test_refine_repeats_the_query(page: SearchPage, exact: PersonGallery, session: Session) -> None:
    page.refine(session, *controls(page, changed=100, count=12, typed="person_id != 1"))
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 12, 0.0, "person_id != 1")]
    assert page.refine(Session(), *controls(page, changed=50)) == [gr.skip()] * 4  # before the first query


def test_ask_picture_and_more_like_search_by_image(page: SearchPage, exact: PersonGallery) -> None:
    session = Session()
    page.ask_picture(session, str(exact.path(5)), *controls(page))
    assert rows(session)[0] == 5
    show(page, session, {"row": rows(session)[3]})
    shown = session.shown
    status, *_ = page.more_like(session, *controls(page))
    assert rows(session)[0] == shown
    assert "<img src='data:image/jpeg;base64," in status


def test_menus_are_columns_with_few_values(exact: PersonGallery) -> None:
    assert list(menus(exact)) == ["person_id", "camera"]
    assert menus(exact)["person_id"] == ["0", "1", "2", "3"]
    assert time_column(exact) == "time"


def test_ask_combines_all_filters(page: SearchPage, exact: PersonGallery) -> None:
    session = Session()
    cameras = [str(value) for value in exact.values("camera")[:2]]
    given = {"chosen": {"camera": cameras}, "first": "2026-05-04", "last": "2026-05-20", "typed": "path <> ''"}
    page.ask(session, SENTENCE, *controls(page, **given))
    where = f"camera in ({','.join(cameras)}) and time >= '2026-05-04' and time <= '2026-05-20'"
    assert rows(session) == [hit.row for hit in exact.search_text(SENTENCE, 24, where=where)]
    assert 0 < len(rows(session)) < 24


def test_expression_prevents_sql_injection_by_values(exact: PersonGallery) -> None:
    for value in ("x') OR ('' = '", "x' --", "'; DROP TABLE gallery; --", '"'):
        where = expression({"camera": [value]}, "time", None, None, "")
        assert exact.search_text(SENTENCE, where=where) == []


def test_ask_shows_a_message_without_hits(page: SearchPage) -> None:
    session = Session()
    _, grid, export, _ = page.ask(session, SENTENCE, *controls(page, typed="camera == 99"))
    assert "No image matches the filter." in grid and "camera == 99" in grid
    assert session.hits == [] and export["visible"] is False


@pytest.mark.parametrize(
    ("sentence", "given", "message"),
    [
        ("  ", {}, "the sentence is empty"),
        ("穿红色外套的女人", {}, "the model's vocabulary has no word of"),
        (SENTENCE, {"typed": "camra = 1"}, "did you mean camera"),
        (SENTENCE, {"typed": "'; DROP TABLE gallery"}, "the filter"),
        (SENTENCE, {"first": "yesterday"}, "the filter"),
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
    status, *others = page.ask(session, sentence, *controls(page, **given))
    assert message in Tags(status).text and "role='alert'" in status
    assert others == [gr.skip()] * 3
    assert rows(session) == before


def test_ask_notes_a_truncated_sentence(page: SearchPage) -> None:
    session = Session()
    status, *_ = page.ask(session, "a woman in a red coat " * 170, *controls(page))
    assert len(session.hits) == 24
    assert "the model reads the first 32" in status
    assert len(status) < 1000


def test_ask_picture_hides_the_path_of_a_bad_upload(page: SearchPage, tmp_path: Path) -> None:
    file = tmp_path / "query.jpg"
    file.write_text("no picture")
    status, *_ = page.ask_picture(Session(), str(file), *controls(page))
    assert "the picture: no image of a known format" in status
    assert str(tmp_path) not in status


def test_ask_groups_hits_by_person(page: SearchPage) -> None:
    session = Session()
    _, grid, *_ = page.ask(session, SENTENCE, *controls(page, grouped=True))
    tags = Tags(grid)
    assert [tag for tag, _ in tags.elements].count("h2") == 4
    assert "6 images" in tags.text
    people = [session.hits[rows(session).index(row)].metadata["person_id"] for row in tags.rows()]
    assert people == [person for person in dict.fromkeys(people) for _ in range(6)]


def test_show_and_look_open_a_hit_with_its_maps(page: SearchPage, session: Session) -> None:
    large, placeholder, details, _ = show(page, session, {"row": rows(session)[1]})
    assert "Hit 2" in large and "data:image/jpeg;base64," in large
    assert "Computing" in placeholder
    assert session.hits[1].name in details and "person_id" in details
    assert [tag for tag, _ in Tags(page.look(session)).elements].count("img") == 2


@pytest.mark.parametrize("data", [None, {}, {"row": 999}, {"row": -1}, {"row": "../../etc/passwd"}, {"row": None}, "x"])
def test_show_ignores_rows_that_are_no_hits(page: SearchPage, session: Session, data: Any) -> None:
    assert show(page, session, data) == [gr.skip()] * 4
    assert page.look(session) == gr.skip()


def test_look_drops_maps_of_a_closed_image(page: SearchPage, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.shown = rows(session)[0]

    def open_another(row: int, query: Any) -> tuple[str, str]:
        session.shown = rows(session)[1]
        return "", ""

    monkeypatch.setattr(page._pictures, "maps", open_another)
    assert page.look(session) == gr.skip()


def test_page_and_export_survive_a_missing_file(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    with PersonGallery.build(tmp_path / "index", photos, embedder, show_progress=False) as gallery:
        page, session = SearchPage(gallery), Session()
        gallery.path(3).unlink()
        _, grid, *_ = page.ask(session, SENTENCE, *controls(page))
        assert grid.count("the file is missing") == 1
        assert "there is no such file" in show(page, session, {"row": 3})[0]
        with zipfile.ZipFile(export_hits(session.hits, "x", tmp_path / "hits.zip")) as archive:
            assert len([name for name in archive.namelist() if name.startswith("images/")]) == 23


def test_page_escapes_names_and_captions(embedder: Embedder, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for number, name in enumerate(HOSTILE):
        Image.new("RGB", (32, 64), (60 * number, 90, 90)).save(folder / name)
        lines.append(json.dumps({"file_name": name, "note": f"<b>{name}</b>"[:22], "captions": [name, "<script>"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    with PersonGallery.build(tmp_path / "index", folder, embedder, show_progress=False) as gallery:
        page, session = SearchPage(gallery), Session()
        status, grid, *_ = page.ask(session, f"a woman {HOSTILE[0]}", *controls(page))
        pages = [status, grid]
        for row in range(len(HOSTILE)):
            large, _, details, _ = show(page, session, {"row": row})
            pages += [large, details]
    text = ""
    for written in pages:
        assert not {"${", "{{", "`"} & set(written) and "${" not in written and "{{" not in written
        tags = Tags(written)
        text += tags.text
        assert {tag for tag, _ in tags.elements} <= TAGS
        for _, attributes in tags.elements:
            assert not [name for name in attributes if name.startswith("on")]
            assert str(attributes.get("src", "data:image/")).startswith("data:image/")
    assert all(name in text for name in HOSTILE)


def test_export_hits_writes_tables_and_images(exact: PersonGallery, tmp_path: Path) -> None:
    hits = exact.search_text(SENTENCE, 3)
    hits[0].metadata["note"] = "=HYPERLINK(1)"
    hits[1].metadata["note"] = "-1"
    with zipfile.ZipFile(export_hits(hits, SENTENCE, tmp_path / "hits.zip")) as archive:
        table = list(csv.DictReader(io.StringIO(archive.read("hits.csv").decode())))
        found = json.loads(archive.read("hits.json"))
        for row, hit in zip(table, hits, strict=True):
            assert archive.read(row["image"]) == hit.path.read_bytes()
            assert row["file"] == hit.name
            assert float(row["score"]) == pytest.approx(hit.score, abs=1e-6)
            assert row["person_id"] == str(hit.metadata["person_id"])
    assert [row["note"] for row in table] == ["'=HYPERLINK(1)", "-1", ""]  # CSV formula injection
    assert found["search"] == SENTENCE
    assert [entry["metadata"]["camera"] for entry in found["hits"]] == [hit.metadata["camera"] for hit in hits]
    with pytest.raises(ValueError, match="search first"):
        export_hits([], "", tmp_path / "none.zip")
