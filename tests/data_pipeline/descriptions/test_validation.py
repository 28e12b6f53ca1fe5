"""Only answers that are whole, clean and complete are kept."""

import json

import pytest

from data_pipeline.descriptions.validation import Requirements, UnusableAnswer, check_answer, parse_answer

KEYS = ("identity_description", "clothing_description")
IDENTITY = "A young man of average build and medium height. He has short black hair and fair skin."
CLOTHING = "A red plain wool coat, blue denim jeans, white sneakers and a black backpack."
GOOD = json.dumps({"identity_description": IDENTITY, "clothing_description": CLOTHING})


def problems(identity: str = IDENTITY, clothing: str = CLOTHING, **changes: object) -> list[str]:
    requirements = Requirements(**changes)  # type: ignore[arg-type]
    content = json.dumps({"identity_description": identity, "clothing_description": clothing})
    return [problem.kind for problem in check_answer(content, requirements)[1]]


def test_a_good_answer_has_no_problem() -> None:
    texts, found = check_answer(GOOD, Requirements())
    assert found == []
    assert texts == {"identity_description": IDENTITY, "clothing_description": CLOTHING}


@pytest.mark.parametrize("around", ["{}", "Sure!\n```json\n{}\n```", "Think {{hard}}: {} Anything else?"])
def test_prose_around_the_object_does_no_harm(around: str) -> None:
    assert parse_answer(around.replace("{}", GOOD), KEYS)["identity_description"] == IDENTITY


def test_the_answer_of_a_model_that_thinks_aloud_is_the_last() -> None:
    draft = GOOD.replace("young", "old")
    assert parse_answer(f"<think>Perhaps {draft}? No.</think> {GOOD}", KEYS)["identity_description"] == IDENTITY


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        (GOOD[:40], "unparsable"),
        ("a red coat", "unparsable"),
        ("[1, 2]", "unparsable"),
        ("I'm sorry, I can't assist with that.", "refusal"),
        ("{}", "schema"),
        ('{"identity_description": "a"}', "schema"),
        (GOOD[:-1] + ', "confidence": 1}', "schema"),
        ('{"identity_description": ["a"], "clothing_description": "b"}', "schema"),
        ('{"identity_description": null, "clothing_description": "b"}', "schema"),
        ('{"identity_description": "\\ud800", "clothing_description": "b"}', "unparsable"),
        ("{" * 50_000, "unparsable"),
        ('{"a":' * 4_000, "unparsable"),
    ],
)
def test_unusable_answers_are_named_by_kind(content: str, kind: str) -> None:
    with pytest.raises(UnusableAnswer) as error:
        parse_answer(content, KEYS)
    assert error.value.problem.kind == kind


@pytest.mark.parametrize(
    ("texts", "kinds"),
    [
        ({"identity": ""}, ["empty"]),
        ({"identity": "I'm sorry, I cannot describe people."}, ["refusal"]),
        ({"clothing": "Eine rote Jacke und eine blaue Hose mit einem Rucksack."}, ["language"]),
        ({"identity": f"The image shows: {IDENTITY}"}, ["meta"]),
        ({"identity": IDENTITY + " He wears a coat."}, ["leak"]),
        ({"clothing": CLOTHING + " She is tall."}, ["leak"]),
        ({"identity": "A young man of average build, wearing a hat, in general a fine fellow."}, ["coverage", "leak"]),
        ({"clothing": "A coat, and beyond that nothing that could be told."}, ["coverage"]),
        ({"identity": IDENTITY * 10}, ["length"]),
    ],
)
def test_texts_with_a_problem_are_named_by_kind(texts: dict[str, str], kinds: list[str]) -> None:
    assert problems(**texts) == kinds


def test_what_was_not_asked_must_not_be_named() -> None:
    attributes = ("build", "height", "hair")
    assert problems("Of average build and medium height, with short black hair.", identity_attributes=attributes) == []
    assert problems(identity_attributes=attributes) == ["unasked"]


def test_reasons_tell_the_model_what_to_do() -> None:
    content = json.dumps({"identity_description": IDENTITY + " He wears a coat.", "clothing_description": CLOTHING})
    (problem,) = check_answer(content, Requirements())[1]
    assert problem.detail == 'identity_description must not name clothing: "wears", "coat"'


def test_a_caption_is_asked_for_only_with_styles() -> None:
    assert "caption" not in Requirements().schema["properties"]
    requirements = Requirements(caption=True)
    assert check_answer(GOOD, requirements)[1][0].kind == "schema"
    with_caption = GOOD[:-1] + ', "caption": "The photo shows a young man in a red coat."}'
    assert check_answer(with_caption, requirements)[1] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity_attributes": ("gender", "mood")}, "'mood' is none of gender, age"),
        ({"identity_attributes": ()}, "name at least one of gender"),
        ({"min_words": 9, "max_words": 8}, "9 <= 8"),
        ({"min_coverage": 1.5}, "between 0 and 1, got 1.5"),
    ],
)
def test_requirements_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requirements(**changes)  # type: ignore[arg-type]
