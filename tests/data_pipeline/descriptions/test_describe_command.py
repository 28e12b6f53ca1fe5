"""`bdam describe` as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_pipeline import load_person_dataset
from data_pipeline.commands.main import app
from data_pipeline.descriptions.store import DescriptionStore

KEY = "sk-secret-of-the-test"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["describe", *map(str, arguments)])


def run(folder: Path, server: str, *flags: object) -> Result:
    return bdam(
        "run", "folder", "--data-dir", folder, "--model", "m", "--base-url", server, "--output", "d.jsonl", *flags
    )


def test_a_folder_is_described_and_joins_its_data_set(
    start_server: Callable[..., str], write_images: Callable[[int], Path]
) -> None:
    folder = write_images(10)
    result = run(folder, start_server())
    assert result.exit_code == 0, result.output
    assert "images described" in result.stdout and "10, 0 with a caption" in result.stdout
    assert Image.open("d.png").width > 100
    assert json.loads(Path("d.report.json").read_text())["images"] == 10
    joined = load_person_dataset("folder", folder, descriptions="d.jsonl")
    assert all(
        row["identity_description"] and row["clothing_description"]
        for row in joined["test"].select_columns(["identity_description", "clothing_description"])
    )


def test_json_is_all_that_is_printed(start_server: Callable[..., str], write_images: Callable[[int], Path]) -> None:
    result = run(write_images(3), start_server(), "--json", "--no-sheet")
    report = json.loads(result.stdout)
    assert report["images"] == 3 and report["leak_rate"] == 0.0
    assert report["coverage"]["identity"] == dict.fromkeys(("gender", "age", "build", "height", "hair", "skin"), 1.0)


def test_images_without_a_description_make_the_exit_status_1(
    start_server: Callable[..., str], write_images: Callable[[int], Path]
) -> None:
    server = start_server("--faults", "1", "--fault_kinds", "refusal")
    result = run(write_images(3), server, "--attempts", 2)
    assert result.exit_code == 1 and "3 (refusal 3)" in result.stdout
    assert json.loads(bdam("report", "d.jsonl", "--json").stdout)["refusal_rate"] == 1.0


def test_fewer_attributes_are_asked_for_and_checked(
    start_server: Callable[..., str], write_images: Callable[[int], Path]
) -> None:
    result = run(write_images(2), start_server(), "--attributes", "gender,age,build", "--attempts", 1)
    assert result.exit_code == 1  # this server always names height, hair and skin
    failed = [json.loads(line) for line in Path("d.failed.jsonl").read_text().splitlines()]
    assert {kind for line in failed for kind in line["kinds"]} == {"unasked"}


def test_a_dry_run_prints_counts_tokens_and_cost(write_images: Callable[[int], Path]) -> None:
    Path("prices.json").write_text(json.dumps({"m": {"input": 2.5, "output": 10}}))
    result = run(write_images(7), "http://127.0.0.1:9/v1", "--dry-run", "--prices", "prices.json", "--json")
    estimate = json.loads(result.stdout)
    assert estimate["to_send"] == 7 and estimate["cost"] > 0 and not list(Path().glob("d*.*"))
    batch = run(Path("images"), "http://127.0.0.1:9/v1", "--dry-run", "--prices", "prices.json", "--json", "--batch")
    assert json.loads(batch.stdout)["cost"] == pytest.approx(estimate["cost"] / 2)
    without = run(Path("images"), "http://127.0.0.1:9/v1", "--dry-run")
    assert f"{estimate['prompt_tokens']:,} " in without.stdout and "unknown, for want of --prices" in without.stdout


def test_the_batch_api_is_one_flag(start_server: Callable[..., str], write_images: Callable[[int], Path]) -> None:
    result = run(write_images(4), start_server(), "--batch", "--poll-seconds", 0.1, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["images"] == 4


def test_a_wrong_key_ends_the_run_at_once(
    start_server: Callable[..., str], write_images: Callable[[int], Path]
) -> None:
    result = run(write_images(30), start_server("--key", "another"), "--no-sheet")
    assert result.exit_code == 1 and "stopped: the server refuses all requests: status 401" in result.stderr
    assert not Path("d.failed.jsonl").exists()


@pytest.mark.parametrize("flags", [(), ("--batch", "--poll-seconds", "0.1")])
def test_the_key_is_nowhere_but_in_the_environment(
    start_server: Callable[..., str], write_images: Callable[[int], Path], flags: tuple[str, ...]
) -> None:
    server = start_server("--echo_key", "--faults", "0.5", "--fault_kinds", "429,500,schema,prose,refusal")
    command = [Path(sys.executable).with_name("bdam"), "describe", "run", "folder", "--data-dir", write_images(10)]
    command += ["--model", "m", "--base-url", server, "--output", "out/d.jsonl", *flags]
    environment = {**os.environ, "OPENAI_LOG": "debug", "PYTHONUNBUFFERED": "1"}
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert "images described" in result.stdout
    assert KEY not in result.stdout + result.stderr
    written = [path for path in Path("out").rglob("*") if path.is_file()]
    assert len(written) >= 3 and not [path for path in written if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-cost", "1"), "max_cost needs a price table"),
        (("--attributes", "gender,mood"), "'mood' is none of gender, age"),
        (("--extra-body", "[1]"), "--extra-body must be a JSON object"),
        (("--extra-body", "{"), "--extra-body: no valid JSON"),
        (("--split", "train"), "no split 'train'; the data set has test"),
        (("--prompts", "nowhere"), "nowhere: holds none of describe_system.txt"),
        (("--prices", "nowhere.json"), "nowhere.json"),
        (("--styles", "nowhere.json"), "nowhere.json"),
        (("--in-flight", "0"), "in_flight must be positive"),
        (("--timeout", "0"), "timeout must be positive"),
    ],
)
def test_mistakes_are_told_in_one_line(
    write_images: Callable[[int], Path], flags: tuple[str, ...], message: str
) -> None:
    result = run(write_images(1), "http://127.0.0.1:9/v1", *flags)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and "Traceback" not in result.output


def test_two_writers_of_one_output_are_refused(write_images: Callable[[int], Path]) -> None:
    with DescriptionStore(Path("d.jsonl")):
        result = run(write_images(1), "http://127.0.0.1:9/v1")
    assert result.exit_code == 1 and "error: d.jsonl: another process is writing there" in result.stderr


def test_a_data_set_that_is_not_there_is_told() -> None:
    result = bdam("run", "cuhk-pedes", "--data-dir", "nowhere", "--model", "m")
    assert result.exit_code == 1 and "error: nowhere: there is no such folder" in result.stderr


def write_descriptions(*texts: tuple[str, str]) -> None:
    lines = [
        json.dumps({"file_path": f"{number}.jpg", "identity_description": identity, "clothing_description": clothing})
        for number, (identity, clothing) in enumerate(texts)
    ]
    Path("theirs.jsonl").write_text("\n".join(lines) + "\n")


IDENTITY = "A young man of average build and medium height. He has short black hair and fair skin."
CLOTHING = "A red plain wool coat, blue denim jeans, white sneakers and a black backpack."


def test_descriptions_of_any_origin_can_be_validated() -> None:
    write_descriptions((IDENTITY, CLOTHING), (IDENTITY + " He wears a coat.", CLOTHING))
    result = bdam("validate", "theirs.jsonl")
    assert result.exit_code == 1
    assert result.stdout == '1.jpg: identity_description must not name clothing: "wears", "coat"\n'
    write_descriptions((IDENTITY, CLOTHING))
    assert bdam("validate", "theirs.jsonl").exit_code == 0


def test_a_report_has_the_leak_rate_and_repeated_texts() -> None:
    write_descriptions((IDENTITY, CLOTHING), (IDENTITY, CLOTHING), (IDENTITY, CLOTHING + " She is tall."))
    report = json.loads(bdam("report", "theirs.jsonl", "--json").stdout)
    assert report["leak_rate_kept"] == pytest.approx(1 / 3)
    assert report["repeated"] == {"identity_description": 3, "clothing_description": 2, "both": 2}
    assert report["words"]["identity_description"] == {"min": 17, "median": 17, "max": 17}
    table = bdam("report", "theirs.jsonl")
    assert table.exit_code == 0 and "33.3 % of those kept" in table.stdout


def test_a_broken_line_is_named() -> None:
    Path("theirs.jsonl").write_text('{"file_path": "a"}\n')
    result = bdam("report", "theirs.jsonl")
    assert result.exit_code == 1
    assert "error: theirs.jsonl, entry 1: identity_description must be a string, got None" in result.stderr


def test_prompts_are_copied_to_be_changed(
    start_server: Callable[..., str], write_images: Callable[[int], Path]
) -> None:
    assert "my/describe_system.txt may hold {identity_attributes}" in bdam("prompts", "my").stdout
    assert run(write_images(1), start_server(), "--prompts", "my").exit_code == 0
    assert Path("my/neutralize_captions.txt").is_file() and Path("my/name_style.txt").is_file()
    again = bdam("prompts", "my")
    assert again.exit_code == 1 and again.stderr.startswith("error: ")
