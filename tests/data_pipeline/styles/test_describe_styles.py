"""The commands `bdam describe styles` and `compare-clusterings`."""

import json
from pathlib import Path

import pytest
from datasets import config as datasets_config
from typer.testing import CliRunner, Result

from data_pipeline.commands.main import app
from data_pipeline.styles.styles import StyleBook
from data_pipeline.styles.tagger import load_tagger

from ..descriptions.small_images import StartServer
from .captions_in_styles import synthetic_captions
from .tiny_text_encoders import save_sentence_encoder

METHODS = ("dbscan", "hdbscan", "kmeans", "gmm", "agglomerative", "random", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captions in two files and an encoder."""
    folder = tmp_path_factory.mktemp("styles")
    captions, styles = synthetic_captions(people=12)
    kept = [caption for caption, style in zip(captions, styles, strict=True) if style in ("terse", "prose", "report")]
    (folder / "captions.txt").write_text("\n".join(kept) + "\n\n", encoding="utf-8")
    lines = [{"captions": kept[:5]}, *({"caption": caption, "file_path": "x"} for caption in kept[5:])]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    save_sentence_encoder(folder / "encoder", kept)
    (folder / "no encoder").mkdir()
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", folder / "cache")


def bdam(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["describe", *map(str, arguments)])


def test_styles_writes_plots_and_prints(folder: Path) -> None:
    common = ("--style-encoder", "encoder", "--json", "--output", "out/styles.json")

    by_text = bdam("styles", "--captions", "captions.txt", *common, "--plot", "out/styles.png")
    by_json = bdam("styles", "--captions", "captions.jsonl", *common)

    assert by_text.exit_code == by_json.exit_code == 0, by_text.stderr + by_json.stderr
    printed = json.loads(by_text.stdout)
    assert printed["styles"] == json.loads(by_json.stdout)["styles"]
    assert printed["made_by"]["method"] == "dbscan" and printed["made_by"]["eps"] > 0
    assert (folder / "out" / "styles.png").stat().st_size > 10_000
    book = StyleBook.load(folder / "out" / "styles.json")
    captions = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")[:-2]
    assert sum(book.sizes) == len(captions)
    assert {text for style in book.styles for text in style.exemplars} <= set(captions)


def test_styles_and_compare_print_tables() -> None:
    common = ("--captions", "captions.txt", "--style-encoder", "encoder")

    styles, comparison = bdam("styles", *common, "--output", "table.json"), bdam("compare-clusterings", *common)

    assert styles.exit_code == comparison.exit_code == 0, styles.stderr + comparison.stderr
    assert load_tagger() is not None or "python -m spacy download en_core_web_sm" in styles.stderr
    assert "for example" in styles.stdout and "Subject: " in styles.stdout
    assert all(f"│ {method} " in comparison.stdout for method in METHODS)


@pytest.mark.slow
def test_compare_scores_the_synthetic_set() -> None:
    done = bdam("compare-clusterings", "synthetic", "--style-encoder", "encoder", "--json")

    report = json.loads(done.stdout)
    assert report["captions"] == 6000 and report["true_styles"] == 8
    assert all(-1 <= row["rand_index"] <= 1 for row in report["methods"])


@pytest.mark.parametrize("faults", [0, 1])
def test_styles_by_a_model_fall_back_to_rules(
    faults: int, folder: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-this-test")
    arguments = ("styles", "--captions", "captions.txt", "--style-encoder", "encoder", "--json", "--output", "by.json")
    log, answers = folder / f"asked{faults}.jsonl", folder / f"answers{faults}.jsonl"
    server = start_server(faults=faults, fault_kinds="schema", log=log)
    by_model = ("--neutralize", "mllm", "--model", "m", "--base-url", server, "--answers", answers)

    done, by_rules = bdam(*arguments, *by_model), json.loads(bdam(*arguments, "--neutralize", "rules").stdout)
    asked = len(log.read_text().splitlines())
    again = bdam(*arguments, *by_model)

    assert done.exit_code == 0, done.stderr
    assert again.stdout == done.stdout
    book = json.loads(done.stdout)
    assert [style["captions"] for style in book["styles"]] == [style["captions"] for style in by_rules["styles"]]
    names, rule_names = ({style["name"] for style in styles["styles"]} for styles in (book, by_rules))
    if faults:
        assert book["made_by"]["neutralized_by_rules"] == book["made_by"]["captions"]
        assert "were neutralized by rules" in done.stderr
        assert names == rule_names
    else:
        assert book["made_by"]["neutralized_by_rules"] == 0
        assert len(log.read_text().splitlines()) == asked  # no text is requested twice
        assert not names & rule_names
    (folder / "name_style.txt").write_text("Repeat the message.")
    renamed = json.loads(bdam(*arguments, *by_model, "--prompts", folder).stdout)
    assert {style["name"] for style in renamed["styles"]} == rule_names  # the echoed exemplars are too long for a name
    assert "sk-secret-of-this-test" not in done.stdout + done.stderr + answers.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either a data set or --captions FILE"),
        (("synthetic", "--captions", "captions.txt"), "give either a data set or --captions FILE"),
        (("cuhk-pedez",), "did you mean cuhk-pedes?"),
        (("--captions", "none.txt"), "none.txt: "),
        (("--captions", "captions.txt", "--neutralize", "mllm"), "--neutralize mllm requires --model"),
        (
            ("--captions", "captions.txt", "--neutralize", "mllm", "--model", "m", "--prompts", "no encoder"),
            "no encoder: contains none of the prompt files neutralize_captions.txt, name_style.txt",
        ),
        (("--captions", "captions.txt", "--model", "m"), "--model requires --neutralize mllm"),
        (("--captions", "captions.txt", "--style-encoder", "no encoder"), "style encoder no encoder: "),
        (("--captions", "captions.txt", "--style-encoder", "encoder", "--eps", "-1"), "eps must be positive, got -1.0"),
    ],
)
def test_styles_reports_an_error_in_one_line(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    done = bdam("styles", *arguments, "--output", "no.json")

    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and message in done.stderr
    assert not (folder / "no.json").exists()
