"""The validator on a file of answers in varied English: few false rejections and few wrong acceptances.

Each line of `evaluation_answers.jsonl` is an answer with its `verdict`: "good" answers must be kept, "bad" ones must be
rejected, and "repair" ones must be kept without the strings in `gone`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions.lexicon import IDENTITY_ATTRIBUTES
from data_pipeline.descriptions.validation import TEXTS, Requirements, check_answer, check_description

FILE = Path(__file__).with_name("evaluation_answers.jsonl")
ENTRIES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def entries(verdict: str, reduced: bool | None = None) -> list[dict[str, Any]]:
    found = [entry for entry in ENTRIES if entry["verdict"] == verdict]
    return found if reduced is None else [entry for entry in found if ("attributes" in entry) == reduced]


def content_of(entry: dict[str, Any]) -> str:
    return entry["answer"] if isinstance(entry["answer"], str) else json.dumps(entry["answer"], ensure_ascii=False)


def check(entry: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    record, problems = check_answer(content_of(entry), requirements_of(entry))
    return record, [f"{problem.kind}: {problem.detail}" for problem in problems]


def requirements_of(entry: dict[str, Any]) -> Requirements:
    return Requirements(tuple(entry.get("attributes", IDENTITY_ATTRIBUTES)))


def test_evaluation_file_has_enough_answers_of_each_verdict() -> None:
    assert len(entries("good", reduced=False)) >= 70 and len(entries("good", reduced=True)) >= 30
    assert len(entries("bad")) >= 60 and len({entry["kind"] for entry in entries("bad")}) >= 12
    assert sum("identity_attributes" in entry["answer"] for entry in entries("good")) >= 50


@pytest.mark.parametrize("reduced", [False, True])
def test_check_answer_rejects_at_most_3_percent_of_good_answers(reduced: bool) -> None:
    rejected = [(problems, entry["answer"]) for entry in entries("good", reduced) if (problems := check(entry)[1])]
    assert len(rejected) <= 0.03 * len(entries("good", reduced)), rejected


def test_check_answer_keeps_good_texts_except_for_pronouns() -> None:
    changed = [entry["answer"] for entry in entries("good") if set(check(entry)[0].get("repaired", ())) - {"pronoun"}]
    assert len(changed) <= 0.03 * len(entries("good")), changed


@pytest.mark.parametrize("reduced", [False, True])
def test_check_answer_accepts_at_most_5_percent_of_bad_answers(reduced: bool) -> None:
    accepted = [entry for entry in entries("bad", reduced) if not check(entry)[1]]
    assert len(accepted) <= 0.05 * len(entries("bad", reduced)), accepted


@pytest.mark.parametrize("entry", entries("repair"), ids=lambda entry: entry["kind"])
def test_check_answer_repairs_without_a_second_request(entry: dict[str, Any]) -> None:
    record, problems = check(entry)
    assert not problems and not check_description(record, requirements_of(entry))
    texts = " ".join(record[key] for key in TEXTS)
    assert not [gone for gone in entry["gone"] if gone in texts], texts
    if texts != " ".join(entry["answer"].get(key, "") if isinstance(entry["answer"], dict) else "" for key in TEXTS):
        assert record["repaired"]


def test_check_answer_moves_a_garment_to_the_clothing_text() -> None:
    answer = dict(next(entry for entry in entries("repair") if entry["kind"] == "talk")["answer"])
    answer["identity_description"] = (
        "A young man of average build and height with black hair. He has fair skin. He wears a silk scarf."
    )
    record, problems = check_answer(json.dumps(answer), Requirements())
    assert not problems and "moved" in record["repaired"]
    assert "scarf" not in record["identity_description"]
    assert record["clothing_description"].endswith("The person wears a silk scarf.")
