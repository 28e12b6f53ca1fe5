"""Searching an index: the same for vectors in the folder and in Milvus."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.search import PersonGallery, PersonHit, group_by_person
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.stores.store import IndexType
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture
def gallery(drawn_photos: Path, embedder: Embedder, store: str | None, tmp_path: Path) -> Iterator[PersonGallery]:
    with PersonGallery.build(tmp_path / "index", drawn_photos, embedder, store=store, show_progress=False) as gallery:
        yield gallery


@pytest.fixture(scope="module")
def exact(drawn_photos: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PersonGallery]:
    """An exact index in a folder, shared by tests that only search it."""
    index = tmp_path_factory.mktemp("exact")
    with PersonGallery.build(index, drawn_photos, embedder, show_progress=False) as gallery:
        yield gallery


def by_model(gallery: PersonGallery, beta: float) -> list[tuple[int, float]]:
    """Rows and scores of `SENTENCE`, best first, as `BDAMModel.score` says."""
    vectors = torch.from_numpy(np.stack([gallery.vector(row) for row in range(len(gallery))]))
    query = torch.from_numpy(gallery.embedder.embed_sentence(SENTENCE))
    scores = gallery.embedder.model.score(query[None], vectors, clothing_weight=beta)[0].tolist()
    return sorted(enumerate(scores), key=lambda row_and_score: -row_and_score[1])


def found(hits: list[PersonHit]) -> list[int]:
    return [hit.row for hit in hits]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_hits_are_ranked_and_scored_as_the_model_scores(gallery: PersonGallery, beta: float) -> None:
    expected = by_model(gallery, beta)
    hits = gallery.search_text(SENTENCE, top_k=10, clothing_weight=beta)
    assert found(hits) == [row for row, _ in expected[:10]]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected[:10]], atol=1e-5)


def test_a_score_is_the_sum_of_its_two_parts(gallery: PersonGallery) -> None:
    query = gallery.embedder.embed_sentence(SENTENCE)
    for hit in gallery.search_text(SENTENCE, clothing_weight=0.5):
        products = query * gallery.vector(hit.row)
        assert hit.identity_score == pytest.approx(products[:16].sum(), abs=1e-5)
        assert hit.clothing_score == pytest.approx(0.5 * products[16:].sum(), abs=1e-5)
        assert hit.score == hit.identity_score + hit.clothing_score


def test_the_models_own_clothing_weight_is_the_default(gallery: PersonGallery) -> None:
    own = gallery.embedder.model.config.clothing_weight
    assert gallery.search_text(SENTENCE) == gallery.search_text(SENTENCE, clothing_weight=own)


def test_a_filter_leaves_the_best_of_what_it_selects(gallery: PersonGallery) -> None:
    unfiltered = gallery.search_text(SENTENCE, top_k=len(gallery))
    cameras = gallery.values("camera")
    for where, holds in (
        (f"camera == {cameras[0]}", lambda data: data["camera"] == cameras[0]),
        (
            f"camera != {cameras[0]} and time > '2026-05-10'",
            lambda data: data["camera"] != cameras[0] and data["time"] > datetime(2026, 5, 10),
        ),
        ("person_id in (1, 3) or path like 'camera_2/%'", None),
    ):
        hits = gallery.search_text(SENTENCE, top_k=5, where=where)
        expected = [
            hit
            for hit in unfiltered
            if (
                holds(hit.metadata)
                if holds is not None
                else hit.metadata["person_id"] in (1, 3) or hit.name.startswith("camera_2/")
            )
        ]
        assert found(hits) == found(expected[:5])
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected[:5]], abs=1e-6)


def test_a_filter_that_selects_nothing_finds_nothing(gallery: PersonGallery) -> None:
    assert gallery.search_text(SENTENCE, where="camera == 99") == []


def test_a_picture_of_the_gallery_finds_itself(gallery: PersonGallery) -> None:
    for row in (0, 7):
        assert gallery.search_image(gallery.path(row), top_k=1)[0].row == row
        assert gallery.search_image(gallery.image(row), top_k=1)[0].row == row
        itself = gallery.search_row(row, top_k=3)[0]
        assert itself.row == row
        assert itself.score == pytest.approx(1 + gallery.manifest.clothing_weight, abs=1e-5)


def test_more_hits_than_images_are_all_images(gallery: PersonGallery) -> None:
    assert sorted(found(gallery.search_text(SENTENCE, top_k=1000))) == list(range(len(gallery)))


def test_hits_name_file_and_metadata(gallery: PersonGallery, drawn_photos: Path) -> None:
    hit = gallery.search_text(SENTENCE, top_k=1, where="person_id == 2 and path like '%2_1_0%'")[0]
    assert hit.path == drawn_photos / hit.name
    assert hit.path.is_file()
    assert hit.metadata["person_id"] == 2
    assert hit.metadata["camera"] == int(hit.name[len("camera_")])
    assert isinstance(hit.metadata["time"], datetime)
    assert set(gallery.columns) == {"path", "person_id", "camera", "time"}


def test_added_files_are_found_and_the_others_stay(gallery: PersonGallery, tmp_path: Path) -> None:
    before = {hit.name: hit for hit in gallery.search_text(SENTENCE, top_k=100)}
    extra = tmp_path / "extra.png"
    extra.write_bytes(synthetic_row(0, 9, 0, 0)["image"]["bytes"])
    report = gallery.add([extra], [{"person_id": 9, "lens": "wide"}])
    assert (report.images, report.embedded, report.removed) == (len(before) + 1, 1, 0)
    after = {hit.name: hit for hit in gallery.search_text(SENTENCE, top_k=100)}
    assert after.keys() - before.keys() == {str(extra)}
    assert all(after[name].score == pytest.approx(before[name].score, abs=1e-6) for name in before)
    new = gallery.search_image(extra, top_k=1, where="lens == 'wide'")[0]
    assert new.path == extra
    assert new.metadata == {"person_id": 9, "camera": None, "time": None, "lens": "wide"}


def test_searches_from_many_threads_agree(gallery: PersonGallery) -> None:
    asked = [(SENTENCE, None), ("an old man in black", "camera > 2")] * 10
    alone = [gallery.search_text(sentence, where=where) for sentence, where in asked]
    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda query: gallery.search_text(query[0], where=query[1]), asked))
    assert [found(hits) for hits in together] == [found(hits) for hits in alone]


@pytest.mark.parametrize("index_type", ["hnsw", "int8"])
def test_an_approximate_index_scores_exactly_and_filters_exactly(
    exact: PersonGallery,
    embedder: Embedder,
    drawn_photos: Path,
    store: str | None,
    index_type: IndexType,
    tmp_path: Path,
) -> None:
    with PersonGallery.build(
        tmp_path / "index", drawn_photos, embedder, index_type=index_type, store=store, show_progress=False
    ) as gallery:
        assert gallery.manifest.index_type == index_type
        for where in (None, "camera in (1, 2, 3)"):
            expected, hits = (each.search_text(SENTENCE, top_k=6, where=where) for each in (exact, gallery))
            assert found(hits) == found(expected)
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_both_stores_find_the_same_with_the_same_scores(gallery: PersonGallery, exact: PersonGallery) -> None:
    for beta in (0.0, 1.0):
        for where in (None, "camera >= 3", "person_id = 1 or time < '2026-05-05'"):
            one, other = (each.search_text(SENTENCE, 8, beta, where) for each in (gallery, exact))
            assert [hit.name for hit in one] == [hit.name for hit in other]
            assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-5)


def test_hits_of_one_person_are_grouped(exact: PersonGallery) -> None:
    hits = exact.search_text(SENTENCE, top_k=len(exact))
    groups = group_by_person(hits)
    assert sorted(group.person_id for group in groups) == [0, 1, 2, 3]
    assert groups[0].hits[0] == hits[0]
    for group in groups:
        assert [hit.metadata["person_id"] for hit in group.hits] == [group.person_id] * 6
        assert [hit.score for hit in group.hits] == sorted((hit.score for hit in group.hits), reverse=True)


def test_unknown_people_are_not_grouped() -> None:
    def hit(row: int, metadata: dict) -> PersonHit:
        return PersonHit(row, Path("x"), "x", 0.0, 0.0, 0.0, metadata)

    groups = group_by_person([hit(0, {}), hit(1, {"person_id": -1}), hit(2, {"person_id": None}), hit(3, {})])
    assert [(group.person_id, found(group.hits)) for group in groups] == [(None, [row]) for row in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentence": "  "}, "the sentence is empty"),
        ({"sentence": "穿红色外套的女人"}, "knows no word of '穿红色外套的女人'"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"clothing_weight": -1.0}, "clothing_weight must be 0 or more, got -1.0"),
        ({"clothing_weight": float("nan")}, "clothing_weight must be 0 or more, got nan"),
        ({"where": "camra == 3"}, "no column 'camra': did you mean camera"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_in_one_line(
    exact: PersonGallery, arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        exact.search_text(**{"sentence": SENTENCE, **arguments})
    assert "\n" not in str(caught.value)


def test_a_vector_of_another_length_is_refused(exact: PersonGallery) -> None:
    with pytest.raises(ValueError, match="a vector of 32 finite numbers"):
        exact.search_vector(np.zeros(31, dtype=np.float32))


def test_a_query_picture_that_is_none_is_refused(exact: PersonGallery, tmp_path: Path) -> None:
    file = tmp_path / "query.jpg"
    file.write_text("no picture")
    with pytest.raises(OSError, match=r"query\.jpg: no image"):
        exact.search_image(file)


@pytest.mark.parametrize("row", [-1, 24])
def test_only_images_of_the_index_are_given_out(exact: PersonGallery, row: int) -> None:
    for give in (exact.path, exact.image, exact.vector, exact.search_row):
        with pytest.raises(ValueError, match=f"there is no row {row}: the gallery has 24 images"):
            give(row)


def test_an_image_comes_upright_and_in_rgb(exact: PersonGallery) -> None:
    image = exact.image(3)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (32, 64))


def test_a_remark_tells_foreign_words_and_long_sentences_but_no_good_sentence(exact: PersonGallery) -> None:
    assert exact.remark(SENTENCE) is None
    assert "does not know most words" in str(exact.remark("eine Frau im roten Mantel mit grauen Haaren"))
    assert "the model reads the first 32" in str(exact.remark("a woman in a red coat " * 40))
