"""The word lists find what leaks, and leave alone what does not."""

import random

import pytest

from data_pipeline.descriptions.lexicon import (
    CLOTHING_ATTRIBUTES,
    IDENTITY_ATTRIBUTES,
    body_words,
    clothing_words,
    is_english,
    meta_words,
    named_attributes,
    refusal_words,
)
from data_pipeline.synthetic.captions import (
    CAPTION_STYLES,
    write_caption,
    write_clothing_description,
    write_identity_description,
)
from data_pipeline.synthetic.people import describe_person, describe_shot


def synthetic_texts(people: int) -> list[tuple[str, str, list[str]]]:
    """Identity, clothing, and captions of synthetic photos: texts of which it is known what they name."""
    texts = []
    for person_id in range(people):
        person, rng = describe_person(0, person_id), random.Random(person_id)
        shot, outfit = describe_shot(0, person_id, 0, 0), person.outfits[0]
        captions = [write_caption(style, person.traits, outfit, shot, rng) for style in CAPTION_STYLES]
        texts.append(
            (
                write_identity_description(person.traits, random.Random(person_id), rng),
                write_clothing_description(outfit, shot, rng),
                captions,
            )
        )
    return texts


def test_texts_that_are_kept_apart_do_not_leak() -> None:
    for identity, clothing, _ in synthetic_texts(200):
        assert clothing_words(identity) == []
        assert body_words(clothing) == []


def test_captions_that_mix_both_are_told_from_either() -> None:
    captions = [caption for _, _, captions in synthetic_texts(100) for caption in captions]
    assert all(clothing_words(caption) for caption in captions)
    # "a person in a red coat" names no body; hardly any caption says so little.
    assert sum(bool(body_words(caption)) for caption in captions) > 0.95 * len(captions)


def test_every_attribute_of_a_full_identity_text_is_found() -> None:
    for identity, _, _ in synthetic_texts(200):
        assert named_attributes(identity, IDENTITY_ATTRIBUTES) == list(IDENTITY_ATTRIBUTES)


@pytest.mark.parametrize(
    "text",
    [
        "A navy slim-fit blazer, skinny jeans and tall leather boots, knee-height socks.",
        "A hair tie, a face mask and a skin-tight black top with short sleeves.",
        "A lightweight knee-length dress, wide-leg trousers, a baby blue scarf.",
        "The person carries a heavy old suitcase and wears athletic shoes.",
    ],
)
def test_words_of_garments_that_sound_like_a_body_are_no_leak(text: str) -> None:
    assert body_words(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "A woman who wears her long hair in a ponytail, tied on top of her head.",
        "A tall man with a beard; his hair is short on the sides and longer on top.",
    ],
)
def test_words_of_hair_that_sound_like_clothing_are_no_leak(text: str) -> None:
    assert clothing_words(text) == []


@pytest.mark.parametrize(
    ("text", "leaked"),
    [
        ("Red coat on a tall person with dark skin.", ["tall", "skin"]),
        ("She has put on a blue dress.", ["she"]),
        ("A men's jacket for the elderly.", ["men", "elderly"]),
    ],
)
def test_body_words_are_found(text: str, leaked: list[str]) -> None:
    assert body_words(text) == leaked


@pytest.mark.parametrize(
    ("text", "leaked"),
    [
        ("A young man wearing glasses.", ["wearing", "glasses"]),
        ("A slim woman in a T-shirt.", ["t-shirt"]),
        ("An old man with a backpack", ["backpack"]),
    ],
)
def test_clothing_words_are_found(text: str, leaked: list[str]) -> None:
    assert clothing_words(text) == leaked


def test_short_hair_is_no_height() -> None:
    assert named_attributes("A man with short, dark hair.", ["height"]) == []
    assert named_attributes("A man with short and curly black hair.", ["height"]) == []
    assert named_attributes("A short man with long hair.", ["height"]) == ["height"]


def test_attributes_of_clothing_are_told_apart() -> None:
    assert named_attributes("a plain red wool coat", CLOTHING_ATTRIBUTES) == ["type", "color", "pattern", "material"]
    assert named_attributes("white sneakers and a bag", CLOTHING_ATTRIBUTES) == ["color", "shoes", "accessories"]
    assert named_attributes("gold embroidery, bangles", CLOTHING_ATTRIBUTES) == ["color", "pattern", "accessories"]


@pytest.mark.parametrize(
    "text", ["I'm sorry, but no.", "I’m sorry", "As an AI, I see", "I cannot do that", "unable to assist"]
)
def test_refusals_are_found(text: str) -> None:
    assert refusal_words(text)


def test_a_hedge_is_no_refusal() -> None:
    assert not refusal_words("The hair cannot be seen under the hood.")


@pytest.mark.parametrize("text", ["The image shows a man", "A man in this photo", "Here is the JSON", "as shown"])
def test_talk_about_the_picture_is_found(text: str) -> None:
    assert meta_words(text)


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
def test_other_languages_are_not_english(text: str) -> None:
    assert not is_english(text)


def test_every_style_of_english_is_english() -> None:
    assert all(is_english(text) for row in synthetic_texts(100) for text in (row[0], row[1], *row[2]))
