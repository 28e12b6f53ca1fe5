"""The whole way with the commands that a user types: annotate, style, describe, train."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

import run_t2i_reid
from data_pipeline import load_person_dataset
from data_pipeline.synthetic.dataset import synthetic_row

from ..styles.tiny_text_encoders import save_clip

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
    """Photos of 16 synthetic people with their captions, as a folder of a user's own."""
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


def test_annotate_style_describe_train(start_server: Callable[..., str], tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "sk-test"}
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")

    def command(*arguments: object) -> str:
        run = subprocess.run(list(map(str, arguments)), env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    bdam = Path(sys.executable).with_name("bdam")
    server = start_server()
    encoder = save_clip(tmp_path / "clip", annotate(tmp_path / "people"))
    asked = ("--model", "m", "--base-url", server)
    source = ("folder", "--data-dir", "people")
    command(bdam, "describe", "styles", *source, "--output", "styles.json", "--neutralize", "mllm", *asked,
            "--style-encoder", encoder, "--method", "kmeans", "--clusters", 3, "--min-cluster", 2)  # fmt: skip
    styles = {style["name"] for style in json.loads((tmp_path / "styles.json").read_text())["styles"]}
    report = json.loads(
        command(bdam, "describe", "run", *source, *asked, "--styles", "styles.json", "--output", "d.jsonl", "--json")
    )
    assert report["images"] == report["captions"] == 32
    assert len(styles) > 1 and set(report["styles"]) <= styles

    splits = load_person_dataset("folder", tmp_path / "people", descriptions=tmp_path / "d.jsonl")
    rows = splits["train"].select_columns(["identity_description", "clothing_description", "styled_captions"])
    assert len(rows) == 24 and all(row["identity_description"] and row["styled_captions"] for row in rows)

    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    command(sys.executable, run_t2i_reid.__file__, "--config", "settings.json", "--dataset_name", "folder",
            "--data_dir", "people", "--descriptions", "d.jsonl", "--output_dir", "model")  # fmt: skip
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "model" / "eval_results.json").read_text())
