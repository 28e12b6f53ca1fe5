"""Only parsable answers without leaks and with all attributes are kept."""

import json

import pytest

from data_pipeline.descriptions.answers import UnusableAnswer, parse_answer
from data_pipeline.descriptions.validation import Requirements, check_answer, check_description

KEYS = ("identity_description", "clothing_description")
IDENTITY = "A young man of average build and medium height. He has short black hair and fair skin."
CLOTHING = "A red plain wool coat, blue denim jeans, white sneakers and a black backpack."
GOOD = json.dumps({"identity_description": IDENTITY, "clothing_description": CLOTHING})


def problems(identity: str = IDENTITY, clothing: str = CLOTHING, **changes: object) -> list[str]:
    requirements = Requirements(**changes)  # type: ignore[arg-type]
    content = json.dumps({"identity_description": identity, "clothing_description": clothing})
    return [problem.kind for problem in check_answer(content, requirements)[1]]


def test_check_answer_accepts_a_valid_answer() -> None:
    texts = {"identity_description": IDENTITY, "clothing_description": CLOTHING}
    assert check_answer(GOOD, Requirements()) == (texts, [])


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "Sure!\n```json\n{}\n```",
        "Think {{hard}}: {} Anything else?",
        f"<think>Perhaps {GOOD.replace('young', 'old')}? No.</think> {{}}",  # the last object counts
    ],
)
def test_parse_answer_ignores_prose_around_the_object(around: str) -> None:
    assert parse_answer(around.replace("{}", GOOD), KEYS)["identity_description"] == IDENTITY


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
        ('{"identity_description": ["a"], "clothing_description": "b"}', "schema"),
        ('{"identity_description": null, "clothing_description": "b"}', "schema"),
        ('{"identity_description": "\\ud800", "clothing_description": "b"}', "unparsable"),
        ("{" * 50_000, "unparsable"),
        ('{"a":' * 4_000, "unparsable"),
    ],
)
def test_parse_answer_rejects_unusable_answers(content: str, kind: str) -> None:
    with pytest.raises(UnusableAnswer) as error:
        parse_answer(content, KEYS)
    assert error.value.problem.kind == kind


@pytest.mark.parametrize(
    ("texts", "kinds"),
    [
        ({"identity": ""}, ["empty"]),
        ({"identity": "I'm sorry, I cannot describe people."}, ["refusal"]),
        ({"clothing": "Eine rote Jacke und eine blaue Hose mit einem Rucksack."}, ["language"]),
        ({"identity": "I see a person here"}, ["length", "meta"]),
        ({"identity": "A slim man, tall and young, in a red coat and jeans."}, ["leak"]),
        ({"identity": "A young man of average build, wearing a hat, in general a fine fellow."}, ["coverage"]),
        ({"clothing": "A coat, and beyond that nothing that could be told."}, ["coverage"]),
    ],
)
def test_check_answer_names_the_problems(texts: dict[str, str], kinds: list[str]) -> None:
    assert problems(**texts) == kinds


def test_check_answer_bounds_the_words_of_each_text() -> None:
    assert problems(max_words=15) == ["length"] and problems(max_words=12) == ["length", "length"]


def test_check_answer_rejects_attributes_not_asked() -> None:
    attributes = ("build", "height", "hair")
    assert problems("Of average build and medium height, with short black hair.", identity_attributes=attributes) == []
    content = json.dumps({"identity_description": "Skin light, hair black and long, body tall and slim.",
                          "clothing_description": CLOTHING})  # fmt: skip
    (problem,) = check_answer(content, Requirements(("gender", "age")))[1]
    assert problem.kind == "unasked" and "must not name: " in problem.detail


def test_check_description_reports_a_missing_caption() -> None:
    record = {"identity_description": IDENTITY, "clothing_description": CLOTHING}
    assert not check_description(record, Requirements())
    (problem,) = check_description(record, Requirements(caption=True))
    assert problem.detail == "caption was empty"


def test_requirements_include_a_caption_only_on_request() -> None:
    assert "caption" not in Requirements().schema["properties"]
    requirements = Requirements(caption=True)
    assert check_answer(GOOD, requirements)[1][0].kind == "schema"
    with_caption = GOOD[:-1] + ', "caption": "The photo shows a young man in a red coat."}'
    assert check_answer(with_caption, requirements)[1] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity_attributes": ("gender", "mood")}, "unknown attribute 'mood'; choose from gender, age"),
        ({"identity_attributes": ()}, "no attribute given; choose from gender"),
        ({"min_words": 9, "max_words": 8}, "got 9 and 8"),
        ({"min_coverage": 1.5}, "between 0 and 1, got 1.5"),
    ],
)
def test_requirements_out_of_range_raise(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requirements(**changes)  # type: ignore[arg-type]
