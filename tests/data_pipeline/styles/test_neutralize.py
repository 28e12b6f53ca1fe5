"""Neutralized captions keep the writing style and lose the description of the person."""

from pathlib import Path

import pytest

from data_pipeline import load_synthetic, synthetic_caption_styles
from data_pipeline.styles.neutralize import descriptive_words, neutralize
from data_pipeline.styles.neutralize_model import neutralize_by_model

from .captions_in_styles import LIKE_CUHK_PEDES, synthetic_captions

CAPTION = "The tall man is wearing a red coat, blue jeans and boots."


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
        (LIKE_CUHK_PEDES[1], "They are carrying something and has something pulled back in something."),
        (
            LIKE_CUHK_PEDES[3],
            "The person can be seen from behind. They are wearing something. Their thing are of some kind.",
        ),
        (LIKE_CUHK_PEDES[5], "Person, looking at their thing."),
        (LIKE_CUHK_PEDES[7], "a person, they are walking with something and wearing something over something"),
    ],
)
def test_neutralize_replaces_descriptions_by_vague_words(caption: str, neutral: str) -> None:
    assert neutralize(caption) == neutral


def test_neutralize_leaves_no_descriptive_words() -> None:
    captions, _ = synthetic_captions(people=40)
    for caption in [*captions, *LIKE_CUHK_PEDES]:
        assert not descriptive_words(neutralize(caption)), caption


def test_neutralize_makes_captions_of_a_style_equal() -> None:
    captions, styles = synthetic_captions(people=40)
    by_style: dict[str, set[str]] = {style: set() for style in styles}
    for caption, style in zip(captions, styles, strict=True):
        by_style[style].add(neutralize(caption))
    assert len(set(captions)) > 0.95 * len(captions)
    assert sum(map(len, by_style.values())) < 0.2 * len(captions)
    assert len(set.union(*by_style.values())) == sum(map(len, by_style.values()))  # no wording in two styles


def test_synthetic_captions_equal_the_synthetic_set(tmp_path: Path) -> None:
    split = load_synthetic(3, 1, 1, image_size=(32, 16), cache_dir=str(tmp_path))["train"]
    captions, styles = synthetic_captions(people=3)
    assert captions == [caption for texts in split["captions"] for caption in texts]
    assert styles == [style for names in synthetic_caption_styles(split) for style in names]


def test_neutralize_by_model_asks_once_for_equal_captions() -> None:
    asked = []

    def ask(texts: list[str]) -> list[str]:
        asked.extend(texts)
        return ["  The person is wearing certain things.\n"] * len(texts)

    assert neutralize_by_model([CAPTION, CAPTION], ask) == (["The person is wearing certain things."] * 2, 0)
    assert asked == [CAPTION]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I'm sorry, I can't assist with describing people.",
        "The person is wearing something.\nAnything else?",
        "Thing.",
        "The person is wearing something. " * 20,
        CAPTION,
    ],
)
def test_neutralize_by_model_falls_back_to_rules(answer: str) -> None:
    neutral = neutralize_by_model([CAPTION, CAPTION, "a man"], lambda texts: [answer, "a person"])
    assert neutral == ([neutralize(CAPTION), neutralize(CAPTION), "a person"], 2)


def test_neutralize_by_model_checks_the_number_of_answers() -> None:
    with pytest.raises(ValueError, match="got 1 answers for 2 captions"):
        neutralize_by_model(["a man", "a woman"], lambda texts: ["a person"])
