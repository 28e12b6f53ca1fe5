"""Searches by a picture and words, and the likelihood of their hits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.search import PersonGallery
from data_pipeline.search.composition import compose_vectors
from data_pipeline.search.hits import is_probably_absent, likelihood_in_words, likely_hits
from modeling_bdam.evaluation.calibration import absence_threshold, likelihoods

SENTENCE, WITHOUT = "a young woman in a red coat and blue jeans", "a backpack"
CURVE = {"slopes": [4.0, 8.0], "intercepts": [-1.0, -3.0], "thresholds": [0.1, 0.3], "growths": [0.0, 0.1]}
CALIBRATION: dict[str, Any] = {"images": 12, "clothing_weights": [0.0, 2.0], "text": CURVE, "composed": CURVE}


@pytest.fixture
def calibrated(exact: PersonGallery, monkeypatch: pytest.MonkeyPatch) -> PersonGallery:
    monkeypatch.setattr(exact.embedder.model.config, "score_calibration", CALIBRATION)
    return exact


@pytest.mark.parametrize("identity_from", ["image", "text"])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_search_composed_scores_as_the_model(exact: PersonGallery, identity_from: Any, beta: float) -> None:
    file = exact.path(5)
    picture = exact.embedder.embed_image(exact.image(5))
    halves = [picture[:16], exact.embed_sentence(SENTENCE)[16:]]
    if identity_from == "text":
        halves = [exact.embed_sentence(SENTENCE)[:16], picture[16:]]
    query = torch.from_numpy(np.concatenate(halves))[None]
    vectors = torch.from_numpy(np.stack([exact.vector(row) for row in range(len(exact))]))
    expected = exact.embedder.model.score(query, vectors, clothing_weight=beta)[0]
    hits = exact.search_composed(file, SENTENCE, 24, beta, identity_from=identity_from, include_self=True)
    assert len(hits) == 24
    np.testing.assert_allclose([hit.score for hit in hits], [expected[hit.row] for hit in hits], atol=1e-5)


def test_query_picture_is_no_hit_unless_it_is_included(exact: PersonGallery) -> None:
    file = exact.path(3)
    everything = [hit.row for hit in exact.search_image(file, 24, include_self=True)]
    assert everything[0] == 3
    assert [hit.row for hit in exact.search_image(file, 23)] == everything[1:]
    assert [hit.row for hit in exact.search_image(file, 2)] == everything[1:3]
    assert 3 not in [hit.row for hit in exact.search_composed(file, SENTENCE, 24)]


def test_without_lowers_the_similarity_to_its_words(exact: PersonGallery) -> None:
    words, without = exact.embed_sentence(SENTENCE), exact.embed_sentence(WITHOUT)
    found = compose_vectors(None, words, without=without)
    halves, removed = found.reshape(2, 16), without.reshape(2, 16)
    np.testing.assert_allclose(np.linalg.norm(halves, axis=1), 1, atol=1e-5)
    assert np.all((halves * removed).sum(1) < (words.reshape(2, 16) * removed).sum(1))
    hits = exact.search_text(SENTENCE, 24, without=WITHOUT)
    assert [hit.row for hit in hits] == [hit.row for hit in exact.search_vector(found, 24)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a sentence, a picture, or both"),
        ({"sentence": SENTENCE, "identity_from": "face"}, "identity_from must be image or text, got 'face'"),
        ({"sentence": SENTENCE, "without": " "}, "the sentence is empty"),
    ],
)
def test_search_composed_refuses_bad_arguments(exact: PersonGallery, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact.search_composed(**arguments)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 9.0])
def test_hits_have_the_likelihood_of_the_calibration(calibrated: PersonGallery, beta: float) -> None:
    hits = calibrated.search_text(SENTENCE, 24, beta)
    expected = likelihoods(CALIBRATION, "text", [hit.score for hit in hits], beta, images=24)
    threshold = absence_threshold(CALIBRATION, "text", beta, images=24)
    assert expected is not None and threshold is not None
    assert [hit.likelihood for hit in hits] == pytest.approx(expected.tolist())
    assert [hit.is_weak for hit in hits] == [hit.score < threshold for hit in hits]
    shown = likely_hits(hits, hits[3].likelihood or 0)
    assert [hit.row for hit in shown] == [hit.row for hit in hits[:4]]


def test_filter_makes_a_hit_likelier(calibrated: PersonGallery) -> None:
    everywhere = {hit.row: hit for hit in calibrated.search_text(SENTENCE, 24)}
    for hit in calibrated.search_text(SENTENCE, 24, where="person_id == 1"):
        assert (hit.likelihood or 0) > (everywhere[hit.row].likelihood or 1)


def test_uncalibrated_hits_have_no_likelihood(calibrated: PersonGallery, drawn_photos: Path) -> None:
    file = next(drawn_photos.rglob("*.jpg"))
    assert calibrated.search_composed(file, SENTENCE)[0].likelihood is not None
    for hits in (
        calibrated.search_image(file),  # this calibration has no pictures
        calibrated.search_composed(file, SENTENCE, identity_from="text"),
        calibrated.search_text(SENTENCE, without=WITHOUT),
        calibrated.search_vector(calibrated.vector(0)),
    ):
        assert hits[0].likelihood is None
        assert not is_probably_absent(hits)
        with pytest.raises(ValueError, match="the model has no calibration for this kind of query"):
            likely_hits(hits, 0.5)


def test_person_is_probably_absent_if_all_hits_are_weak(calibrated: PersonGallery) -> None:
    hits = calibrated.search_text(SENTENCE, 24, 0.0)
    assert not is_probably_absent([])
    assert is_probably_absent([hit for hit in hits if hit.is_weak] or [])
    assert not is_probably_absent(hits)
    with pytest.raises(ValueError, match="min_likelihood must be between 0 and 1, got 2"):
        likely_hits(hits, 2)


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [(0.999, "likely, > 99 %"), (0.5, "likely, 50 %"), (0.1, "possible, 10 %"), (0.004, "unlikely, < 1 %")],
)
def test_likelihood_in_words_has_word_and_per_cent(likelihood: float, words: str) -> None:
    assert likelihood_in_words(likelihood) == words
