"""The demo's page, without a browser: what it answers to what is asked of it, and what stands in its HTML."""

import csv
import html.parser
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from data_pipeline.search import PersonGallery
from data_pipeline.search.embedder import Embedder

gr = pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'bdam-reid[demo]'")

from data_pipeline.search.demo.filters import expression, menus, time_column  # noqa: E402
from data_pipeline.search.demo.page import SearchPage, Session  # noqa: E402
from data_pipeline.search.hits_export import export_hits  # noqa: E402

SENTENCE = "a young woman in a red coat and blue jeans"
HOSTILE = ["<img src=x onerror=alert(1)>.jpg", "${alert(1)}.jpg", "{{constructor}}`.jpg", "a' onfocus='alert(1).jpg"]


@pytest.fixture(scope="module")
def gallery(
    drawn_photos: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PersonGallery]:
    index = tmp_path_factory.mktemp("index")
    with PersonGallery.build(index, drawn_photos, embedder, show_progress=False) as gallery:
        yield gallery


@pytest.fixture(scope="module")
def page(gallery: PersonGallery) -> SearchPage:
    return SearchPage(gallery)


def controls(page: SearchPage, **given: Any) -> list[Any]:
    """The values of the page's controls, in their order."""
    values = {"changed": 0, "count": 24, "grouped": False, "typed": "", "first": "", "last": "", **given}
    chosen = values.pop("chosen", {})
    return [*values.values(), *(chosen.get(menu.column, []) for menu in page._menus)]


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
def test_the_slider_is_the_clothing_weight(
    page: SearchPage, gallery: PersonGallery, changed: int, share: float
) -> None:
    session = Session()
    status, grid, *_ = page.ask(session, SENTENCE, *controls(page, changed=changed))
    beta = share * gallery.manifest.clothing_weight
    expected = gallery.search_text(SENTENCE, 24, beta)
    assert rows(session) == [hit.row for hit in expected]
    assert Tags(grid).rows() == rows(session)
    assert SENTENCE in status and f"clothing weight {beta:.2f}" in status
    assert f"clothes {expected[0].clothing_score:.2f}" in grid


def test_the_slider_and_the_filters_search_for_the_same_query_again(page: SearchPage, gallery: PersonGallery) -> None:
    session = Session()
    page.ask(session, SENTENCE, *controls(page))
    page.refine(session, *controls(page, changed=100, count=12, typed="person_id != 1"))
    assert rows(session) == [hit.row for hit in gallery.search_text(SENTENCE, 12, 0.0, "person_id != 1")]


def test_before_a_query_slider_and_filters_change_nothing(page: SearchPage) -> None:
    assert page.refine(Session(), *controls(page, changed=50)) == [gr.skip()] * 4


def test_a_picture_and_more_like_this_search_by_image(page: SearchPage, gallery: PersonGallery) -> None:
    session = Session()
    page.ask_picture(session, str(gallery.path(5)), *controls(page))
    assert rows(session)[0] == 5
    page.show(session, SimpleNamespace(_data={"row": rows(session)[3]}))  # type: ignore[arg-type]
    shown = session.shown
    status, *_ = page.more_like(session, *controls(page))
    assert rows(session)[0] == shown
    assert "<img src='data:image/jpeg;base64," in status


def test_menus_are_columns_of_few_values(gallery: PersonGallery) -> None:
    assert [menu.column for menu in menus(gallery)] == ["person_id", "camera"]
    assert menus(gallery)[0].values == ["0", "1", "2", "3"]
    assert time_column(gallery) == "time"


def test_filters_are_put_together(page: SearchPage, gallery: PersonGallery) -> None:
    session = Session()
    cameras = [str(value) for value in gallery.values("camera")[:2]]
    chosen = {"camera": cameras}
    page.ask(
        session, SENTENCE, *controls(page, chosen=chosen, first="2026-05-04", last="2026-05-20", typed="path <> ''")
    )
    where = f"camera in ({','.join(cameras)}) and time >= '2026-05-04' and time <= '2026-05-20'"
    assert rows(session) == [hit.row for hit in gallery.search_text(SENTENCE, 24, where=where)]
    assert 0 < len(rows(session)) < 24


def test_a_value_of_a_filter_is_never_a_part_of_the_expression(gallery: PersonGallery) -> None:
    for value in ("x') OR ('' = '", "x' --", "'; DROP TABLE gallery; --", '"'):
        where = expression({"camera": [value]}, "time", None, None, "")
        assert gallery.search_text(SENTENCE, where=where) == []


def test_a_filter_that_leaves_nothing_says_so(page: SearchPage) -> None:
    session = Session()
    _, grid, export, _ = page.ask(session, SENTENCE, *controls(page, typed="camera == 99"))
    assert "No image fits the filter." in grid and "camera == 99" in grid
    assert session.hits == [] and export["visible"] is False


@pytest.mark.parametrize(
    ("sentence", "given", "message"),
    [
        ("  ", {}, "the sentence is empty"),
        ("穿红色外套的女人", {}, "the model knows no word of"),
        (SENTENCE, {"typed": "camra = 1"}, "did you mean camera"),
        (SENTENCE, {"typed": "'; DROP TABLE gallery"}, "the filter"),
        (SENTENCE, {"first": "yesterday"}, "the filter"),
        (SENTENCE, {"count": 10**9}, "show 12, 24, 48, 96 images"),
        (SENTENCE, {"changed": -1000}, "the slider goes from 0 to 100"),
        (SENTENCE, {"changed": "a"}, "the slider goes from 0 to 100"),
        ("word " * 10_000, {}, "20000 is the most"),
    ],
)
def test_a_mistake_is_one_line_and_the_last_hits_stay(
    page: SearchPage, sentence: str, given: dict[str, Any], message: str
) -> None:
    session = Session()
    page.ask(session, SENTENCE, *controls(page))
    before = rows(session)
    status, *others = page.ask(session, sentence, *controls(page, **given))
    assert message in Tags(status).text and "role='alert'" in status
    assert others == [gr.skip()] * 3
    assert rows(session) == before


def test_a_thousand_words_are_searched_and_it_is_said_what_was_read(page: SearchPage) -> None:
    session = Session()
    status, *_ = page.ask(session, "a woman in a red coat " * 170, *controls(page))
    assert len(session.hits) == 24
    assert "the model reads the first 32" in status
    assert len(status) < 1000


def test_a_picture_that_is_none_is_told_without_its_place_on_the_server(page: SearchPage, tmp_path: Path) -> None:
    file = tmp_path / "query.jpg"
    file.write_text("no picture")
    status, *_ = page.ask_picture(Session(), str(file), *controls(page))
    assert "the picture: no image of a known format" in status
    assert str(tmp_path) not in status


def test_hits_stand_person_by_person_when_asked(page: SearchPage) -> None:
    session = Session()
    _, grid, *_ = page.ask(session, SENTENCE, *controls(page, grouped=True))
    tags = Tags(grid)
    assert [tag for tag, _ in tags.elements].count("h2") == 4
    assert "6 images" in tags.text
    people = [session.hits[rows(session).index(row)].metadata["person_id"] for row in tags.rows()]
    assert people == [person for person in dict.fromkeys(people) for _ in range(6)]


def test_one_hit_is_shown_large_with_its_maps_and_all_that_is_known(page: SearchPage) -> None:
    session = Session()
    page.ask(session, SENTENCE, *controls(page))
    row = rows(session)[1]
    large, looking, known, _ = page.show(session, SimpleNamespace(_data={"row": row}))  # type: ignore[arg-type]
    assert "Hit 2" in large and "data:image/jpeg;base64," in large
    assert "Looking" in looking
    assert session.hits[1].name in known and "person_id" in known
    maps = page.look(session)
    assert [tag for tag, _ in Tags(maps).elements].count("img") == 2


@pytest.mark.parametrize("data", [None, {}, {"row": 999}, {"row": -1}, {"row": "../../etc/passwd"}, {"row": None}, "x"])
def test_nothing_but_a_hit_is_shown(page: SearchPage, data: Any) -> None:
    session = Session()
    page.ask(session, SENTENCE, *controls(page, count=12))
    assert page.show(session, SimpleNamespace(_data=data)) == [gr.skip()] * 4  # type: ignore[arg-type]
    assert page.look(session) == gr.skip()


def test_a_map_that_comes_late_does_not_replace_another_images(
    page: SearchPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()
    page.ask(session, SENTENCE, *controls(page))
    session.shown = rows(session)[0]

    def open_another(row: int, query: Any) -> tuple[str, str]:
        session.shown = rows(session)[1]
        return "", ""

    monkeypatch.setattr(page._pictures, "maps", open_another)
    assert page.look(session) == gr.skip()


def test_a_file_that_is_gone_is_told_in_its_place(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    with PersonGallery.build(tmp_path / "index", photos, embedder, show_progress=False) as gallery:
        page, session = SearchPage(gallery), Session()
        gallery.path(3).unlink()
        _, grid, *_ = page.ask(session, SENTENCE, *controls(page))
        assert grid.count("the file is gone") == 1
        large, *_ = page.show(session, SimpleNamespace(_data={"row": 3}))  # type: ignore[arg-type]
        assert "there is no such file" in large
        with zipfile.ZipFile(export_hits(session.hits, "x", tmp_path / "hits.zip")) as archive:
            assert len([name for name in archive.namelist() if name.startswith("images/")]) == 23


def test_names_and_captions_come_out_as_text(embedder: Embedder, tmp_path: Path) -> None:
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
            large, _, known, _ = page.show(session, SimpleNamespace(_data={"row": row}))  # type: ignore[arg-type]
            pages += [large, known]
    told = ""
    for written in pages:
        assert not {"${", "{{", "`"} & set(written) and "${" not in written and "{{" not in written
        tags = Tags(written)
        told += tags.text
        assert {tag for tag, _ in tags.elements} <= {
            "p",
            "b",
            "div",
            "button",
            "span",
            "img",
            "h2",
            "dl",
            "dt",
            "dd",
            "br",
        }
        for _, attributes in tags.elements:
            assert not [name for name in attributes if name.startswith("on")]
            assert str(attributes.get("src", "data:image/")).startswith("data:image/")
    assert all(name in told for name in HOSTILE)


def test_hits_are_exported_as_table_and_images(gallery: PersonGallery, tmp_path: Path) -> None:
    hits = gallery.search_text(SENTENCE, 3)
    hits[0].metadata["note"] = "=HYPERLINK(1)"
    with zipfile.ZipFile(export_hits(hits, SENTENCE, tmp_path / "hits.zip")) as archive:
        table = list(csv.DictReader(io.StringIO(archive.read("hits.csv").decode())))
        found = json.loads(archive.read("hits.json"))
        for row, hit in zip(table, hits, strict=True):
            assert archive.read(row["image"]) == hit.path.read_bytes()
            assert row["file"] == hit.name
            assert float(row["score"]) == pytest.approx(hit.score, abs=1e-6)
            assert row["person_id"] == str(hit.metadata["person_id"])
    assert table[0]["note"] == "'=HYPERLINK(1)"
    assert found["search"] == SENTENCE
    assert [entry["metadata"]["camera"] for entry in found["hits"]] == [hit.metadata["camera"] for hit in hits]
    with pytest.raises(ValueError, match="search first"):
        export_hits([], "", tmp_path / "none.zip")
