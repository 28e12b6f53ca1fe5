"""The word lists detect leaks, and few false ones."""

import random

import pytest

from data_pipeline.descriptions.lexicon import (
    CLOTHING_ATTRIBUTES,
    IDENTITY_ATTRIBUTES,
    body_words,
    clothing_words,
    is_english,
    named_attributes,
    refusal_words,
)
from data_pipeline.synthetic.captions import write_caption
from data_pipeline.synthetic.dataset import SYNTHETIC_SETS
from data_pipeline.synthetic.people import describe_person, describe_shot


@pytest.fixture(scope="module", params=SYNTHETIC_SETS)
def synthetic_texts(request: pytest.FixtureRequest) -> list[tuple[str, str, list[str]]]:
    """Identity text, clothing text and captions of synthetic photos, with known content."""
    texts, look = [], SYNTHETIC_SETS[request.param]
    for person_id in range(200):
        person, rng = describe_person(0, person_id), random.Random(person_id)
        shot, outfit = describe_shot(0, person_id, 0, 0), person.outfits[0]
        captions = [write_caption(style, person.traits, outfit, shot, rng) for style in look.caption_styles.values()]
        identity = look.write_identity(person.traits, random.Random(person_id), rng)
        texts.append((identity, look.write_clothing(outfit, shot, rng), captions))
    return texts


def test_synthetic_texts_have_no_leaks_and_all_attributes(synthetic_texts) -> None:
    for identity, clothing, captions in synthetic_texts:
        assert clothing_words(identity) == []
        assert body_words(clothing) == []
        assert named_attributes(identity, IDENTITY_ATTRIBUTES) == list(IDENTITY_ATTRIBUTES)
        assert all(is_english(text) for text in (identity, clothing, *captions))


def test_synthetic_captions_have_words_of_both_kinds(synthetic_texts) -> None:
    captions = [caption for _, _, captions in synthetic_texts for caption in captions]
    assert all(clothing_words(caption) for caption in captions)
    # "a person in a red coat" has no body words; few captions are as short.
    assert sum(bool(body_words(caption)) for caption in captions) > 0.95 * len(captions)


@pytest.mark.parametrize(
    ("text", "leaked"),
    [
        ("A navy slim-fit blazer, skinny jeans and tall leather boots, knee-height socks.", []),
        ("A hair tie, a face mask and a skin-tight black top with short sleeves.", []),
        ("A lightweight knee-length dress, wide-leg trousers, a baby blue scarf.", []),
        ("The person carries a heavy old suitcase and wears athletic shoes.", []),
        ("Red coat on a tall person with dark skin.", ["tall", "skin"]),
        ("She has put on a blue dress.", ["she"]),
        ("A men's jacket for the elderly.", ["men", "elderly"]),
    ],
)
def test_body_words_ignores_similar_words_of_garments(text: str, leaked: list[str]) -> None:
    assert body_words(text) == leaked


@pytest.mark.parametrize(
    ("text", "leaked"),
    [
        ("A woman who wears her long hair in a ponytail, tied on top of her head.", []),
        ("A tall man with a beard; his hair is short on the sides and longer on top.", []),
        ("A young man wearing glasses.", ["wearing", "glasses"]),
        ("A slim woman in a T-shirt.", ["t-shirt"]),
        ("An old man with a backpack", ["backpack"]),
    ],
)
def test_clothing_words_ignores_similar_words_of_hair(text: str, leaked: list[str]) -> None:
    assert clothing_words(text) == leaked


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A man with short, dark hair.", []),
        ("A man with short and curly black hair.", []),
        ("A short man with long hair.", ["height"]),
        ("a plain red wool coat", ["type", "color", "pattern", "material"]),
        ("white sneakers and a bag", ["color", "shoes", "accessories"]),
        ("gold embroidery, bangles", ["color", "pattern", "accessories"]),
    ],
)
def test_named_attributes_finds_height_and_clothing(text: str, named: list[str]) -> None:
    attributes = ["height"] if text.startswith("A ") else CLOTHING_ATTRIBUTES
    assert named_attributes(text, attributes) == named


@pytest.mark.parametrize(
    "text", ["I'm sorry, but no.", "I’m sorry", "As an AI, I see", "I cannot do that", "unable to assist"]
)
def test_refusal_words_finds_refusals(text: str) -> None:
    assert refusal_words(text)


def test_refusal_words_ignores_a_hedge() -> None:
    assert not refusal_words("The hair cannot be seen under the hood.")


@pytest.mark.parametrize(
    "text",
    [
        "Ein junger Mann mit kurzen schwarzen Haaren",
        "Un hombre joven de estatura media con pelo corto y negro",
        "Un homme jeune de taille moyenne avec des cheveux noirs",
        "Un uomo giovane di altezza media con i capelli corti e il viso",
        "一个穿红色外套的年轻人",
        "Молодой человек среднего роста",
    ],
)
def test_is_english_rejects_other_languages(text: str) -> None:
    assert not is_english(text)
