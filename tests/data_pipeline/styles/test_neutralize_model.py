"""Neutral captions by a language model: each is checked, and the rules stand in."""

import pytest

from data_pipeline.styles.neutralize import neutralize
from data_pipeline.styles.neutralize_model import neutralize_by_model

CAPTION = "The tall man is wearing a red coat, blue jeans and boots."


def test_good_answers_are_kept_and_equal_captions_are_asked_for_once() -> None:
    asked = []

    def ask(texts: list[str]) -> list[str]:
        asked.extend(texts)
        return ["  The person is wearing certain things.\n"] * len(texts)

    neutral = neutralize_by_model([CAPTION, CAPTION], ask)

    assert asked == [CAPTION]
    assert neutral.texts == ["The person is wearing certain things."] * 2
    assert neutral.by_rules == 0


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
def test_the_rules_stand_in_for_an_unusable_answer(answer: str) -> None:
    neutral = neutralize_by_model([CAPTION, CAPTION, "a man"], lambda texts: [answer, "a person"])

    assert neutral.texts == [neutralize(CAPTION), neutralize(CAPTION), "a person"]
    assert neutral.by_rules == 2


def test_another_number_of_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 captions were sent, 1 answers"):
        neutralize_by_model(["a man", "a woman"], lambda texts: ["a person"])
