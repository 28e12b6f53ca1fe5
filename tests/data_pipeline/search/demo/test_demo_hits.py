"""Hits of the demo page without a browser: cards, detail panel, kept images and exports."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder

gr = pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

from data_pipeline.search.demo.page import SearchPage  # noqa: E402
from data_pipeline.search.demo.session import Session  # noqa: E402
from data_pipeline.search.hits import likelihood_in_words  # noqa: E402

from .page_events import SENTENCE, Tags, controls, event, noise, rows, texts  # noqa: E402

TAGS = {"p", "b", "div", "button", "span", "img", "h2", "dl", "dt", "dd", "br", "code", "label", "input"}
HOSTILE = ["<img src=x onerror=alert(1)>.jpg", "${alert(1)}.jpg", "{{constructor}}`.jpg", "a' onfocus='alert(1).jpg"]


def test_cards_show_the_likelihood_and_absence(
    page: SearchPage, exact: PersonGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = {"slopes": [2.0], "intercepts": [0.0], "thresholds": [0.9], "growths": [0.0]}
    calibration = {"images": 24, "clothing_weights": [1.0], "text": curve}
    monkeypatch.setattr(exact.embedder.model.config, "score_calibration", calibration)
    session = page.new_session()
    shown = texts(page, page.ask(session, SENTENCE, *controls(page)))
    best = likelihood_in_words(session.hits[0].likelihood or 0)
    assert f"<p class='note'>Probably not in this gallery (the best hit is {best})</p>" in shown.status
    assert f"<span>1</span><span>{best}</span>" in shown.grid
    assert "body 0." not in shown.grid and "it is not a probability" not in shown.grid
    opened = texts(page, page.panel.show(session, event(row=rows(session)[0]))).large
    assert best in opened and f"body {session.hits[0].identity_score:.2f}" in opened


def test_ask_groups_hits_by_person(page: SearchPage) -> None:
    session = page.new_session()
    tags = Tags(texts(page, page.ask(session, SENTENCE, *controls(page, grouped=True))).grid)
    assert [tag for tag, _ in tags.elements].count("h2") == 4
    assert "6 images" in tags.text
    people = [session.hits[rows(session).index(row)].metadata["person_id"] for row in tags.rows("card")]
    assert people == [person for person in dict.fromkeys(people) for _ in range(6)]


def test_cards_show_camera_and_time_in_full(embedder: Embedder, drawn_photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(next(drawn_photos.rglob("*.jpg")), folder / "a.jpg")
    camera = "Central Station, platform 12, north stairs, upper level"
    values = "".join(f"{letter}," for letter in "pqrs")
    table = f'file_name,p,q,r,s,camera_name,seen at\na.jpg,{values}"{camera}",2026-05-02T10:00:00\n'
    (folder / "metadata.csv").write_text(table)
    with PersonGallery.build(tmp_path / "index", folder, embedder, show_progress=False) as gallery:
        page = SearchPage(gallery)
        shown = texts(page, page.ask(page.new_session(), SENTENCE, *controls(page))).grid
    assert f"camera_name {camera}" in shown and "seen at 2026-05-02 10:00:00" in shown


def test_show_and_look_open_a_hit_with_its_maps(page: SearchPage, session: Session) -> None:
    shown = texts(page, page.panel.show(session, event(row=rows(session)[1])))
    assert "Hit 2" in shown.large and "data:image/jpeg;base64," in shown.large
    assert "Computing" in shown.maps
    assert session.hits[1].name in shown.details and "person_id" in shown.details
    assert [tag for tag, _ in Tags(page.panel.look(session)).elements].count("img") == 2


@pytest.mark.parametrize("data", [None, {}, {"row": 999}, {"row": -1}, {"row": "../../etc/passwd"}, {"row": None}, "x"])
def test_show_ignores_rows_that_are_no_hits(page: SearchPage, session: Session, data: Any) -> None:
    assert page.panel.show(session, SimpleNamespace(_data=data)) == {page.layout.detail: gr.skip()}  # type: ignore[arg-type]
    assert page.panel.look(session) == gr.skip()


def test_look_drops_maps_of_a_closed_image(page: SearchPage, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.shown = session.hits[0]

    def open_another(path: Path, query: Any) -> tuple[str, str]:
        session.shown = session.hits[1]
        return "", ""

    monkeypatch.setattr(page._pictures, "maps", open_another)
    assert page.panel.look(session) == gr.skip()


def test_tray_keeps_hits_of_several_searches(page: SearchPage, session: Session) -> None:
    kept = [session.hits[2]]
    page.tray.keep(session, event(row=rows(session)[2], kept=True))
    page.ask(session, "a man", *controls(page, typed="person_id == 1"))
    kept += [hit for hit in session.hits if hit.name != kept[0].name][:1]
    answer = page.tray.keep(session, event(row=kept[1].row, kept=True))
    assert "Kept: 2 images" in texts(page, answer).tray
    answer = page.tray.export_kept(session)
    with zipfile.ZipFile(answer[page.layout.file]) as archive:
        table = list(csv.DictReader(io.StringIO(archive.read("hits.csv").decode("utf-8-sig"))))
    assert [row["file"] for row in table] == [hit.name for hit in kept]
    assert [row["search"] for row in table] == [SENTENCE, "a man"]
    assert [row["filter"] for row in table] == ["", "person_id == 1"]
    page.tray.drop(session, event(name=kept[0].name))
    page.tray.keep(session, event(row=kept[1].row, kept=False))
    assert session.tray == {}


def test_export_names_the_filter(page: SearchPage, session: Session) -> None:
    page.refine(session, *controls(page, chosen={"camera": ["1"]}, typed="person_id >= 0"))
    with zipfile.ZipFile(page.tray.export(session)[page.layout.file]) as archive:
        record = json.loads(archive.read("hits.json"))["search"]
    assert record["query"] == SENTENCE
    assert "person_id >= 0" in record["where"] and any("camera" in condition for condition in record["where"])


def test_page_shows_a_newly_published_index(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    with PersonGallery.build(tmp_path / "index", photos, embedder, show_progress=False) as gallery:
        page = SearchPage(gallery)
        session = page.new_session()
        page.ask(session, SENTENCE, *controls(page, count=96))
        former = session.hits[0]
        # Another process adds an image that comes first in the table, and a column with menu values
        lines = (photos / "metadata.csv").read_text().splitlines()
        lines = [
            f"{lines[0]},door",
            *(f"{line},{'north' if row % 2 else 'south'}" for row, line in enumerate(lines[1:])),
        ]
        (photos / "metadata.csv").write_text("\n".join([*lines, "0.jpg,9,1,2026-05-01T10:00:00,north"]) + "\n")
        noise(0).save(photos / "0.jpg")
        build_index(tmp_path / "index", photos, embedder, show_progress=False)
        assert former.name in texts(page, page.panel.show(session, event(row=former.row))).details  # not the moved row
        answer = page.ask(session, SENTENCE, *controls(page, count=96))
        assert "the index was updated: 25 images" in texts(page, answer).status
        assert "25 images" in answer[page.layout.header]["value"]
        assert "0.jpg" in {hit.name for hit in session.hits}
        assert "door" in [answer[menu]["label"] for menu in page.layout.menus]
        status = texts(page, page.ask(session, "a man", *controls(page, chosen={"door": ["north"]}))).status
        assert "door: north" in status and "the index was updated" not in status


def test_page_survives_a_missing_file(photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    with PersonGallery.build(tmp_path / "index", photos, embedder, show_progress=False) as gallery:
        page = SearchPage(gallery)
        session = page.new_session()
        gallery.path(3).unlink()
        assert texts(page, page.ask(session, SENTENCE, *controls(page))).grid.count("the file is missing") == 1
        assert "there is no such file" in texts(page, page.panel.show(session, event(row=3))).large


def test_page_escapes_names_and_captions(embedder: Embedder, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for number, name in enumerate(HOSTILE):
        noise(number).save(folder / name)
        lines.append(
            json.dumps({"file_name": name, "note": f"<b>{name}</b>"[:22], "captions": [name, "<script>"], "cam": name})
        )
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    with PersonGallery.build(tmp_path / "index", folder, embedder, show_progress=False) as gallery:
        page = SearchPage(gallery)
        session = page.new_session()
        answers = [page.ask(session, f"a woman {HOSTILE[0]}", *controls(page, chosen={"cam": HOSTILE}))]
        for row in rows(session):
            answers += [page.panel.show(session, event(row=row)), page.tray.keep(session, event(row=row, kept=True))]
            answers.append(page.mark(session, event(row=row, mark="right")))
        answers.append(page.more_like(session, *controls(page)))
    text = ""
    for written in [part for answer in answers for part in vars(texts(page, answer)).values()]:
        assert not {"${", "{{", "`"} & set(written) and "${" not in written and "{{" not in written
        tags = Tags(written)
        text += tags.text
        assert {tag for tag, _ in tags.elements} <= TAGS
        for _, attributes in tags.elements:
            assert not [name for name in attributes if name.startswith("on")]
            assert str(attributes.get("src", "data:image/")).startswith("data:image/")
    assert all(name in text for name in HOSTILE)
