"""Searches of an index, with vectors in the folder and in Milvus."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.search import PersonGallery, PersonHit, build_index, group_by_person
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.stores.store import IndexType
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture(scope="module", params=["faiss", "milvus"])
def gallery(
    request: pytest.FixtureRequest, drawn_photos: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PersonGallery]:
    """A read-only gallery for each store."""
    store = None if request.param == "faiss" else request.getfixturevalue("milvus_address")
    index = tmp_path_factory.mktemp("gallery")
    with PersonGallery.build(index, drawn_photos, embedder, store=store, show_progress=False) as gallery:
        yield gallery


def found(hits: list[PersonHit]) -> list[int]:
    return [hit.row for hit in hits]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_search_text_ranks_and_scores_as_the_model(gallery: PersonGallery, beta: float) -> None:
    vectors = torch.from_numpy(np.stack([gallery.vector(row) for row in range(len(gallery))]))
    query = torch.from_numpy(gallery.embedder.embed_sentence(SENTENCE))
    scores = gallery.embedder.model.score(query[None], vectors, clothing_weight=beta)[0].tolist()
    expected = sorted(enumerate(scores), key=lambda row_and_score: -row_and_score[1])[:10]
    hits = gallery.search_text(SENTENCE, top_k=10, clothing_weight=beta)
    assert found(hits) == [row for row, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-5)
    for hit in hits:
        products = query.numpy() * gallery.vector(hit.row)
        assert hit.identity_score == pytest.approx(products[:16].sum(), abs=1e-5)
        assert hit.clothing_score == pytest.approx(beta * products[16:].sum(), abs=1e-5)
        assert hit.score == hit.identity_score + hit.clothing_score


def test_reranked_search_orders_the_first_images_by_the_matching_head(
    matching: Embedder, drawn_photos: Path, tmp_path: Path
) -> None:
    with PersonGallery.build(tmp_path, drawn_photos, matching, show_progress=False) as gallery:
        plain = gallery.search_text(SENTENCE, top_k=8, clothing_weight=2.0)
        hits = gallery.search_text(SENTENCE, top_k=8, clothing_weight=2.0, rerank=5)
        assert found(hits[5:]) == found(plain[5:])
        scores = {hit.row: hit.score for hit in plain[:5]}
        for hit in hits[:5]:
            alone = float(matching.match(SENTENCE, [matching.image_tokens([gallery.image(hit.row)])])[0])
            assert hit.match_score == pytest.approx(2.0 * alone, abs=1e-4)
            assert hit.score == pytest.approx(scores[hit.row] + hit.match_score)
        assert [hit.score for hit in hits[:5]] == sorted((hit.score for hit in hits[:5]), reverse=True)
        assert found(hits[:5]) != found(plain[:5])
        assert found(gallery.search_text(SENTENCE, 8, 0.0, rerank=5)) == found(gallery.search_text(SENTENCE, 8, 0.0))


def test_reranking_without_a_matching_head_is_refused(gallery: PersonGallery) -> None:
    with pytest.raises(ValueError, match="has no matching head, so it cannot re-rank: train one with"):
        gallery.search_text(SENTENCE, rerank=4)


def test_search_text_uses_the_models_clothing_weight(gallery: PersonGallery) -> None:
    own = gallery.embedder.model.config.clothing_weight
    assert gallery.search_text(SENTENCE) == gallery.search_text(SENTENCE, clothing_weight=own)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("camera == 1", lambda hit: hit.metadata["camera"] == 1),
        (
            "camera != 1 and time > '2026-05-10'",
            lambda hit: hit.metadata["camera"] != 1 and hit.metadata["time"] > datetime(2026, 5, 10),
        ),
        (
            "person_id in (1, 3) or path like 'camera_2/%'",
            lambda hit: hit.metadata["person_id"] in (1, 3) or hit.name.startswith("camera_2/"),
        ),
        ("camera == 99", lambda hit: False),
    ],
)
def test_search_text_ranks_the_filtered_images(
    gallery: PersonGallery, where: str, holds: Callable[[PersonHit], bool]
) -> None:
    expected = [hit for hit in gallery.search_text(SENTENCE, top_k=len(gallery)) if holds(hit)][:5]
    hits = gallery.search_text(SENTENCE, top_k=5, where=where)
    assert bool(hits) == ("99" not in where)
    assert found(hits) == found(expected)
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)


def test_search_image_and_row_find_the_image_itself(gallery: PersonGallery) -> None:
    for row in (0, 7):
        assert gallery.search_image(gallery.path(row), top_k=1, include_self=True)[0].row == row
        assert gallery.search_image(gallery.image(row), top_k=1)[0].row == row
        itself = gallery.search_row(row, top_k=3)[0]
        assert itself.row == row
        assert itself.score == pytest.approx(1 + gallery.manifest.clothing_weight, abs=1e-5)


def test_search_text_returns_all_images_for_a_large_top_k(gallery: PersonGallery) -> None:
    assert sorted(found(gallery.search_text(SENTENCE, top_k=1000))) == list(range(len(gallery)))


def test_hit_has_file_and_metadata(gallery: PersonGallery, drawn_photos: Path) -> None:
    hit = gallery.search_text(SENTENCE, top_k=1, where="person_id == 2 and path like '%2_1_0%'")[0]
    assert hit.path == drawn_photos / hit.name
    assert hit.path.is_file()
    assert hit.metadata["person_id"] == 2
    assert hit.metadata["camera"] == int(hit.name[len("camera_")])
    assert isinstance(hit.metadata["time"], datetime)
    assert set(gallery.columns) == {"path", "person_id", "camera", "time"}


def test_add_keeps_the_other_images(drawn_photos: Path, embedder: Embedder, store: str | None, tmp_path: Path) -> None:
    extra = tmp_path / "extra.png"
    extra.write_bytes(synthetic_row(0, 9, 0, 0)["image"]["bytes"])
    with PersonGallery.build(tmp_path / "index", drawn_photos, embedder, store=store, show_progress=False) as gallery:
        before = {hit.name: hit for hit in gallery.search_text(SENTENCE, top_k=100)}
        report = gallery.add([extra], [{"person_id": 9, "lens": "wide"}])
        assert (report.images, report.embedded, report.removed) == (len(before) + 1, 1, 0)
        after = {hit.name: hit for hit in gallery.search_text(SENTENCE, top_k=100)}
        new = gallery.search_image(extra, top_k=1, where="lens == 'wide'", include_self=True)[0]
    assert after.keys() - before.keys() == {str(extra)}
    assert all(after[name].score == pytest.approx(before[name].score, abs=1e-6) for name in before)
    assert new.path == extra
    assert new.metadata == {"person_id": 9, "camera": None, "time": None, "lens": "wide"}


def test_searches_in_threads_equal_sequential_ones(gallery: PersonGallery) -> None:
    queries = [(SENTENCE, None), ("an old man in black", "camera > 2")] * 10
    sequential = [gallery.search_text(sentence, where=where) for sentence, where in queries]
    with ThreadPoolExecutor(10) as pool:
        concurrent = list(pool.map(lambda query: gallery.search_text(query[0], where=query[1]), queries))
    assert [found(hits) for hits in concurrent] == [found(hits) for hits in sequential]


@pytest.mark.parametrize("index_type", ["exact", "hnsw", "int8"])
def test_every_index_type_and_store_scores_and_filters_exactly(
    exact: PersonGallery,
    embedder: Embedder,
    drawn_photos: Path,
    store: str | None,
    index_type: IndexType,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"index_type": index_type, "store": store, "show_progress": False}
    with PersonGallery.build(tmp_path / "index", drawn_photos, embedder, **options) as gallery:
        assert gallery.manifest.index_type == index_type
        for beta in (0.0, 1.0):
            for where in (None, "camera in (1, 2, 3)", "person_id = 1 or time < '2026-05-05'"):
                expected, hits = (each.search_text(SENTENCE, 6, beta, where) for each in (exact, gallery))
                assert [hit.name for hit in hits] == [hit.name for hit in expected]
                assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_group_by_person_keeps_the_order_of_hits(exact: PersonGallery) -> None:
    hits = exact.search_text(SENTENCE, top_k=len(exact))
    groups = group_by_person(hits)
    assert sorted(group.person_id for group in groups) == [0, 1, 2, 3]
    assert groups[0].hits[0] == hits[0]
    for group in groups:
        assert [hit.metadata["person_id"] for hit in group.hits] == [group.person_id] * 6
        assert [hit.score for hit in group.hits] == sorted((hit.score for hit in group.hits), reverse=True)


def test_group_by_person_separates_unknown_people() -> None:
    unknown: list[dict] = [{}, {"person_id": -1}, {"person_id": None}, {}]
    hits = [PersonHit(row, Path("x"), "x", 0.0, 0.0, 0.0, metadata) for row, metadata in enumerate(unknown)]
    assert [(group.person_id, found(group.hits)) for group in group_by_person(hits)] == [(None, [n]) for n in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentence": "  "}, "the sentence is empty"),
        ({"sentence": "a red \udce4 coat"}, "has a broken character at position 7"),
        ({"sentence": "穿红色外套的女人"}, "vocabulary has no word of '穿红色外套的女人'"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"clothing_weight": -1.0}, "clothing_weight must be 0 or more, got -1.0"),
        ({"clothing_weight": float("nan")}, "clothing_weight must be 0 or more, got nan"),
        ({"where": "camra == 3"}, "no column 'camra'.* did you mean camera"),
    ],
)
def test_search_text_refuses_bad_arguments_in_one_line(exact: PersonGallery, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        exact.search_text(**{"sentence": SENTENCE, **arguments})
    assert "\n" not in str(caught.value)


def test_search_vector_refuses_another_length(exact: PersonGallery) -> None:
    with pytest.raises(ValueError, match="a vector of 32 finite numbers"):
        exact.search_vector(np.zeros(31, dtype=np.float32))


def test_search_image_refuses_a_file_that_is_no_image(exact: PersonGallery, tmp_path: Path) -> None:
    file = tmp_path / "query.jpg"
    file.write_text("no picture")
    with pytest.raises(OSError, match=r"query\.jpg: no image"):
        exact.search_image(file)


@pytest.mark.parametrize("row", [-1, 24])
def test_row_out_of_range_is_refused(exact: PersonGallery, row: int) -> None:
    for method in (exact.path, exact.image, exact.vector, exact.search_row):
        with pytest.raises(ValueError, match=f"there is no row {row}: the gallery has 24 images"):
            method(row)


def test_image_is_upright_rgb(exact: PersonGallery) -> None:
    image = exact.image(3)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (32, 64))


@pytest.mark.parametrize(
    ("sentence", "notes"),
    [
        (SENTENCE, []),
        ("A man, with a red coat.", []),
        ("a woman without a red coat", ["does not read negation (without): images with what is named score higher"]),
        ("a man, NOT in blue jeans and no coat", ["negation (not, no)"]),
        ("she isn't in a red coat", ["negation (isn't)"]),
        ("a woman in a red knotted coat", ["may not know: knotted;"]),
        ("eine Frau im roten Mantel mit grauen Haaren", ["Mantel"]),
        ("a woman in a xqzrtk coat", ["words that the model may not know: xqzrtk; use the language"]),
        ("a woman in a red coat " * 40, ["the model reads the first 32"]),
        ("a man with no xqzrtk coat", ["negation (no)", "xqzrtk"]),
    ],
)
def test_remarks_name_what_the_model_does_not_read(exact: PersonGallery, sentence: str, notes: list[str]) -> None:
    remarks = exact.remarks(sentence)
    assert len(remarks) == len(notes)
    assert all(note in remark and "\n" not in remark for note, remark in zip(notes, remarks, strict=True))


@pytest.mark.parametrize(
    ("picture", "note"),
    [
        (Image.effect_noise((32, 64), 60), None),
        (Image.effect_noise((200, 120), 60), "frames (wider than high)"),
        (Image.effect_noise((100, 100), 60), "squares"),
        (Image.effect_noise((96, 128), 60), "portraits"),
        (Image.effect_noise((8, 20), 60), "8 x 20 pixels; a crop of a person has at least 16 x 32"),
        (Image.new("RGB", (64, 128), "red"), "a picture of one color"),
    ],
)
def test_picture_remarks_name_pictures_of_no_person(exact: PersonGallery, picture: Image.Image, note: str) -> None:
    assert len(exact.picture_remarks(picture)) == (note is not None)
    assert all(note in remark for remark in exact.picture_remarks(picture))


def test_equal_files_are_one_hit(photos: Path, embedder: Embedder, store: str | None, tmp_path: Path) -> None:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    for number in range(5):
        (photos / f"copy_{number}.jpg").write_bytes((photos / names[0]).read_bytes())
    (photos / "linked").symlink_to(photos / "camera_2")
    report_options: dict[str, Any] = {"store": store, "show_progress": False}
    with PersonGallery.build(tmp_path / "index", photos, embedder, **report_options) as gallery:
        hits = gallery.search_text(SENTENCE, top_k=24)
        assert len(gallery) > 29
        assert len({hit.content for hit in hits}) == len(hits) == 24
        copies = {hit.name: set(hit.copies) for hit in hits if hit.copies}
        five = next(hit for hit in hits if names[0] in (hit.name, *hit.copies))
        assert {five.name, *five.copies} >= {names[0], *(f"copy_{number}.jpg" for number in range(5))}
        assert any("linked/" in name for group in copies.values() for name in group)
        some = gallery.search_text(SENTENCE, top_k=24, where="path in ('copy_0.jpg', 'copy_1.jpg')")
        assert [(hit.name, hit.copies) for hit in some] == [("copy_0.jpg", ("copy_1.jpg",))]
        assert len(gallery.search_text(SENTENCE, top_k=1)) == 1


def test_open_gallery_sees_a_new_generation(
    photos: Path, embedder: Embedder, store: str | None, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"store": store, "show_progress": False}
    with PersonGallery.build(tmp_path / "index", photos, embedder, **options) as gallery:
        before = gallery.search_text(SENTENCE, top_k=100)
        assert not gallery.reload()
        (photos / "a_new.png").write_bytes(synthetic_row(0, 9, 0, 0)["image"]["bytes"])
        build_index(tmp_path / "index", photos, embedder, **options)
        after = gallery.search_text(SENTENCE, top_k=100)
        assert {hit.name for hit in after} - {hit.name for hit in before} == {"a_new.png"}
        assert len(gallery) == 25
        (photos / "b_new.png").write_bytes(synthetic_row(0, 8, 0, 0)["image"]["bytes"])
        build_index(tmp_path / "index", photos, embedder, **options)
        assert gallery.reload() and not gallery.reload()
        assert gallery.path(gallery.row_of(before[0].name)) == before[0].path
        with pytest.raises(ValueError, match=r"the index no longer has the image gone\.jpg"):
            gallery.row_of("gone.jpg")
