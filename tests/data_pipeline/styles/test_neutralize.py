"""Neutral captions tell how somebody writes, and not of whom."""

import pytest

from data_pipeline import load_synthetic, synthetic_caption_styles
from data_pipeline.styles.neutralize import neutralize, telling_words

from .captions_in_styles import LIKE_CUHK_PEDES, synthetic_captions


@pytest.mark.parametrize(
    ("caption", "neutral"),
    [
        ("The tall man is wearing a red coat.", "The person is wearing something."),
        ("The woman wears jeans, a black-and-white shirt and two bags.", "The person wears something."),
        ("He has short black hair.", "They have something."),
        ("she's carrying a purse", "they are carrying something"),
        ("His shirt is blue and white.", "Their thing is of some kind."),
        ("slim male, 20s, long sleeve black top", "person, something"),
        ("Two girls walk as long as the third one.", "Some people walk as long as the third one."),
        ("A lady who has blond hair looks back.", "A person looks back."),
        ("an object by 2 men over 30", "something by some people over several"),
        ("The lady’s bag", "The person’s something"),
        ("", ""),
        ("…  42", "… several"),
        ("戴帽子的男人", "戴帽子的男人"),
    ],
)
def test_a_caption_becomes_neutral(caption: str, neutral: str) -> None:
    assert neutralize(caption) == neutral


def test_nothing_that_tells_of_a_person_is_left() -> None:
    captions, _ = synthetic_captions(people=40)
    for caption in [*captions, *LIKE_CUHK_PEDES]:
        assert not telling_words(neutralize(caption)), caption


def test_verbs_order_and_punctuation_stay() -> None:
    neutral = [neutralize(caption) for caption in LIKE_CUHK_PEDES]

    assert neutral[1] == "They are carrying something and has something pulled back in something."
    assert neutral[3] == "The person can be seen from behind. They are wearing something. Their thing are of some kind."
    assert neutral[5] == "Person, looking at their thing."
    assert neutral[7] == "a person, they are walking with something and wearing something over something"


def test_what_captions_tell_no_longer_sets_apart_those_of_one_author() -> None:
    captions, styles = synthetic_captions(people=40)

    by_style: dict[str, set[str]] = {style: set() for style in styles}
    for caption, style in zip(captions, styles, strict=True):
        by_style[style].add(neutralize(caption))

    assert len(set(captions)) > 0.95 * len(captions)
    assert sum(map(len, by_style.values())) < 0.2 * len(captions)
    assert len(set.union(*by_style.values())) == sum(map(len, by_style.values()))  # no two authors share a wording


def test_the_captions_of_these_tests_are_those_of_the_synthetic_set(tmp_path) -> None:
    split = load_synthetic(3, 1, 1, image_size=(32, 16), cache_dir=str(tmp_path))["train"]

    captions, styles = synthetic_captions(people=3)

    assert captions == [caption for texts in split["captions"] for caption in texts]
    assert styles == [style for names in synthetic_caption_styles(split) for style in names]
