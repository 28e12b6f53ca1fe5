"""The commands `bdam describe run`, `report`, `validate` and `prompts`."""

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

from .small_images import StartServer, WriteImages

KEY = "sk-secret-of-the-test"
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def bdam(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["describe", *map(str, arguments)])


def run(server: str, *flags: object) -> Result:
    """Describes the folder `images`."""
    command = ("run", "folder", "--data-dir", "images", "--model", "m", "--base-url", server, "--output", "d.jsonl")
    return bdam(*command, *flags)


def lines(file: str) -> list[dict]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_run_describes_a_folder_for_its_data_set(start_server: StartServer, write_images: WriteImages) -> None:
    folder = write_images(10)
    result = run(start_server())
    assert result.exit_code == 0, result.output
    assert "images described" in result.stdout and "10, 0 with a caption" in result.stdout
    assert Image.open("d.png").width > 100
    assert json.loads(Path("d.report.json").read_text())["images"] == 10
    joined = load_person_dataset("folder", folder, descriptions="d.jsonl")["test"]
    assert all(joined["identity_description"]) and all(joined["clothing_description"])


@pytest.mark.parametrize("flags", [(), ("--batch", "--poll-seconds", 0.1)])
def test_run_prints_only_json(start_server: StartServer, write_images: WriteImages, flags: tuple[object, ...]) -> None:
    write_images(3)
    result = run(start_server(), "--json", "--no-sheet", *flags)
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["images"] == 3 and report["leak_rate"] == 0.0
    assert report["coverage"]["identity"] == dict.fromkeys(("gender", "age", "build", "height", "hair", "skin"), 1.0)


def test_run_exits_with_1_if_images_failed(start_server: StartServer, write_images: WriteImages) -> None:
    write_images(3)
    result = run(start_server(faults=1, fault_kinds="refusal"), "--attempts", 2)
    assert result.exit_code == 1 and "3 (refusal 3)" in result.stdout
    assert json.loads(bdam("report", "d.jsonl", "--json").stdout)["refusal_rate"] == 1.0


def test_run_checks_for_attributes_not_asked(start_server: StartServer, write_images: WriteImages) -> None:
    write_images(2)
    result = run(start_server(), "--attributes", "gender,age,build", "--attempts", 1)
    assert result.exit_code == 1  # this server always names height, hair and skin
    assert {kind for line in lines("d.failed.jsonl") for kind in line["kinds"]} == {"unasked"}


def test_dry_run_prints_counts_tokens_and_cost(write_images: WriteImages) -> None:
    write_images(7)
    Path("prices.json").write_text(json.dumps({"m": {"input": 2.5, "output": 10}}))
    flags = ("--dry-run", "--prices", "prices.json", "--json")
    estimate, batch = (json.loads(run(NOWHERE, *flags, *more).stdout) for more in ((), ("--batch",)))
    assert estimate["to_send"] == 7 and estimate["cost"] > 0 and not list(Path().glob("d*.*"))
    assert batch["cost"] == pytest.approx(estimate["cost"] / 2)
    without = run(NOWHERE, "--dry-run")
    assert f"{estimate['prompt_tokens']:,} " in without.stdout and "unknown without --prices" in without.stdout


def test_run_stops_at_once_on_a_wrong_key(start_server: StartServer, write_images: WriteImages) -> None:
    write_images(30)
    result = run(start_server(key="another"), "--no-sheet")
    assert result.exit_code == 1 and "stopped: the server refuses all requests: status 401" in result.stderr
    assert not Path("d.failed.jsonl").exists()


@pytest.mark.parametrize("flags", [(), ("--batch", "--poll-seconds", "0.1")])
def test_run_never_writes_the_key(start_server: StartServer, write_images: WriteImages, flags: tuple[str, ...]) -> None:
    server = start_server(echo_key=1, faults=0.5, fault_kinds="429,500,schema,prose,refusal")
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
        (("--attributes", "gender,mood"), "unknown attribute 'mood'; choose from gender, age"),
        (("--extra-body", "[1]"), "--extra-body must be a JSON object"),
        (("--extra-body", "{"), "--extra-body: invalid JSON"),
        (("--split", "train"), "unknown split 'train'; the data set has test"),
        (("--prompts", "nowhere"), "nowhere: contains none of the prompt files describe_system.txt"),
        (("--prices", "nowhere.json"), "nowhere.json"),
        (("--styles", "nowhere.json"), "nowhere.json"),
        (("--in-flight", "0"), "in_flight must be positive"),
        (("--timeout", "0"), "timeout must be positive"),
        (("--data-dir", "nowhere"), "nowhere: "),
    ],
)
def test_run_reports_an_error_in_one_line(write_images: WriteImages, flags: tuple[str, ...], message: str) -> None:
    write_images(1)
    result = run(NOWHERE, *flags)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and "Traceback" not in result.output


def test_run_refuses_a_second_writer(write_images: WriteImages) -> None:
    write_images(1)
    with DescriptionStore(Path("d.jsonl")):
        result = run(NOWHERE)
    assert result.exit_code == 1 and "error: d.jsonl: locked by another process" in result.stderr


IDENTITY = "A young man of average build and medium height. He has short black hair and fair skin."
CLOTHING = "A red plain wool coat, blue denim jeans, white sneakers and a black backpack."


@pytest.fixture
def write_descriptions(tmp_path: Path) -> Callable[..., None]:
    def write(*texts: tuple[str, str]) -> None:
        keys = ("file_path", "identity_description", "clothing_description")
        entries = [dict(zip(keys, (f"{number}.jpg", *pair), strict=True)) for number, pair in enumerate(texts)]
        (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    return write


def test_validate_lists_problems_of_any_file(write_descriptions: Callable[..., None]) -> None:
    write_descriptions((IDENTITY, CLOTHING), (IDENTITY + " He wears a coat.", CLOTHING))
    result = bdam("validate", "theirs.jsonl")
    assert result.exit_code == 1
    assert result.stdout == '1.jpg: identity_description must not name clothing: "wears", "coat"\n'
    write_descriptions((IDENTITY, CLOTHING))
    assert bdam("validate", "theirs.jsonl").exit_code == 0


def test_report_counts_leaks_and_repeated_texts(write_descriptions: Callable[..., None]) -> None:
    write_descriptions((IDENTITY, CLOTHING), (IDENTITY, CLOTHING), (IDENTITY, CLOTHING + " She is tall."))
    report = json.loads(bdam("report", "theirs.jsonl", "--json").stdout)
    assert report["leak_rate_kept"] == pytest.approx(1 / 3)
    assert report["repeated"] == {"identity_description": 3, "clothing_description": 2, "both": 2}
    assert report["words"]["identity_description"] == {"min": 17, "median": 17, "max": 17}
    table = bdam("report", "theirs.jsonl")
    assert table.exit_code == 0 and "33.3 % of those kept" in table.stdout


def test_report_separates_paid_repaired_rejected_and_failed(
    start_server: StartServer, write_images: WriteImages
) -> None:
    write_images(12)
    run(start_server(faults=0.4, fault_kinds="prose,refusal"), "--attempts", 2)
    report = json.loads(bdam("report", "d.jsonl", "--json").stdout)
    assert report["paid"] == report["answers"] == report["images"] + report["rejected"]
    assert report["repaired"] == report["repaired_by_kind"]["format"] > 0
    assert report["rejected"] == report["rejected_by_kind"]["refusal"] >= 2 * report["failed"]


def test_upgrade_fills_the_fields_that_are_certain(write_descriptions: Callable[..., None]) -> None:
    write_descriptions((IDENTITY, CLOTHING), ("Nothing certain at all in these words.", "None of it."))
    assert bdam("upgrade", "theirs.jsonl").exit_code == 0
    first, second = lines("theirs.jsonl")
    assert first["identity_attributes"] == {
        "gender": "man",
        "age": "young",
        "build": "average build",
        "height": "medium height",
        "hair": "short black hair",
        "skin": "fair skin",
    }
    coat = {"type": "coat", "color": "red", "pattern": "plain", "material": "wool"}
    jeans = {"type": "jeans", "color": "blue", "material": "denim"}
    worn = {"garments": [coat, jeans], "shoes": "white sneakers", "accessories": ["black backpack"]}
    assert first["clothing_attributes"] == worn and first["identity_description"] == IDENTITY
    assert "identity_attributes" not in second and "fields_from" not in second
    again = bdam("upgrade", "theirs.jsonl")
    assert "0 of 2 descriptions have new fields" in again.stderr


def test_report_names_a_broken_line() -> None:
    Path("theirs.jsonl").write_text('{"file_path": "a"}\n')
    result = bdam("report", "theirs.jsonl")
    assert result.exit_code == 1
    assert "error: theirs.jsonl, entry 1: identity_description must be a string, got None" in result.stderr


def test_prompts_copies_files_for_run(start_server: StartServer, write_images: WriteImages) -> None:
    assert "my/describe_system.txt, placeholders: {identity_attributes}" in bdam("prompts", "my").stdout
    write_images(1)
    assert run(start_server(), "--prompts", "my").exit_code == 0
    assert Path("my/neutralize_captions.txt").is_file() and Path("my/name_style.txt").is_file()
    again = bdam("prompts", "my")
    assert again.exit_code == 1 and again.stderr.startswith("error: ")
