"""End to end: find styles, describe with them, train on the descriptions."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import config as datasets_config
from PIL import Image
from typer.testing import CliRunner

import run_t2i_reid
from data_pipeline import load_person_dataset
from data_pipeline.commands.main import app
from data_pipeline.synthetic.dataset import synthetic_row

from ..styles.tiny_text_encoders import save_clip
from .small_images import StartServer

WIDTH = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {
        "vision_config": {"model_type": "vit", "image_size": 32, "patch_size": 16, **WIDTH},
        "text_config": {"model_type": "clip_text_model", "max_position_embeddings": 64, **WIDTH},
        "hidden_size": 32,
        "projection_dim": 16,
        "num_bdam_layers": 1,
        "num_bdam_heads": 2,
        "fusion_hidden_size": 16,
        "num_fusion_layers": 1,
        "mamba_state_size": 4,
    },
    "data": {"image_height": 32, "image_width": 32, "max_text_length": 64, "vocab_size": 300},
    "training": {"max_steps": 3, "per_device_train_batch_size": 8, "report_to": "none", "use_cpu": True},
}


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
