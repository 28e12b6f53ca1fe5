"""End to end: find styles, describe with them, train on the descriptions."""

import io
import json
from pathlib import Path

import pytest
from datasets import config as datasets_config
from PIL import Image
from typer.testing import CliRunner

import run_t2i_reid
from data_pipeline import load_person_dataset
from data_pipeline.commands.main import app
from data_pipeline.synthetic.dataset import synthetic_row

from ...command import tiny_settings
from ..styles.tiny_text_encoders import save_clip
from .small_images import StartServer

SETTINGS = tiny_settings(training={"max_steps": 3})


def annotate(folder: Path) -> list[str]:
    """Writes photos of 16 synthetic people with their captions as a user's folder; returns the captions."""
    folder.mkdir()
    entries, captions = [], []
    for person_id in range(16):
        for shot in range(2):
            row = synthetic_row(0, person_id, 0, shot, image_size=(64, 32))
            name = f"{person_id:03d}_{shot}.jpg"
            Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").save(folder / name)
            split = "train" if person_id < 12 else "validation" if person_id < 14 else "test"
            entries.append({"file_name": name, "person_id": person_id, "captions": row["captions"], "split": split})
            captions += row["captions"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return captions


def test_styles_descriptions_and_training_run_in_sequence(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def bdam(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["describe", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.stdout

    encoder = save_clip(tmp_path / "clip", annotate(tmp_path / "people"))
    source = ("folder", "--data-dir", "people", "--model", "m", "--base-url", start_server())
    bdam("styles", *source, "--output", "styles.json", "--neutralize", "mllm", "--style-encoder", encoder,
         "--method", "kmeans", "--clusters", 3, "--min-cluster", 2)  # fmt: skip
    styles = {style["name"] for style in json.loads(Path("styles.json").read_text())["styles"]}
    report = json.loads(bdam("run", *source, "--styles", "styles.json", "--output", "d.jsonl", "--json"))
    assert report["images"] == report["captions"] == 32
    assert len(styles) > 1 and set(report["styles"]) <= styles

    train = load_person_dataset("folder", tmp_path / "people", descriptions=tmp_path / "d.jsonl")["train"]
    assert len(train) == 24 and all(train["identity_description"]) and all(train["styled_captions"])

    Path("settings.json").write_text(json.dumps(SETTINGS))
    run_t2i_reid.main(["--config=settings.json", "--dataset_name=folder", "--data_dir=people",
                       "--descriptions=d.jsonl", "--output_dir=model"])  # fmt: skip
    assert Path("model/model.safetensors").is_file()
    assert json.loads(Path("model/eval_results.json").read_text())
