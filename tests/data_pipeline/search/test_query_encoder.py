"""The traced text tower: equal to the model, renewed with it, and without the imports of the model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.query_encoder import FOLDER, open_query_encoder

SENTENCES = [
    "man",
    "a young woman in a red coat and blue jeans",
    "A MAN, with white shoes; a backpack!",
    "an old man in a black coat " * 3,
]


@pytest.fixture(scope="module")
def index(drawn_photos: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "index"
    build_index(folder, drawn_photos, model_folder, device="cpu", show_progress=False)
    return folder


@pytest.mark.parametrize("sentence", SENTENCES)
def test_encoder_embeds_as_the_model(sentence: str, index: Path, embedder: Embedder) -> None:
    encoder = open_query_encoder(index, embedder.name, embedder.weights, embedder.config)
    assert encoder is not None
    vector = encoder.embed_sentence(sentence)
    expected = embedder.embed_sentence(sentence)
    assert vector is None or vector.dtype == np.float32
    with PersonGallery.open(index, device="cpu") as gallery:
        np.testing.assert_allclose(gallery.embed_sentence(sentence), expected, atol=1e-5)
        assert (gallery._embedder is None) == (vector is not None)
        assert gallery.remarks(sentence) == PersonGallery.open(index, embedder).remarks(sentence)
    if len(sentence) < 60:
        assert vector is not None


def test_gallery_loads_the_model_for_pictures(index: Path, embedder: Embedder, drawn_photos: Path) -> None:
    query = sorted(drawn_photos.rglob("*.jpg"))[3]
    with PersonGallery.open(index, device="cpu") as gallery:
        first = gallery.search_text(SENTENCES[1])
        assert gallery.search_image(query, top_k=1, include_self=True)[0].path == query
        assert gallery.embedder.weights == embedder.weights
        assert [hit.row for hit in gallery.search_text(SENTENCES[1])] == [hit.row for hit in first]


def test_encoder_of_changed_weights_is_not_used(
    drawn_photos: Path, model_folder: Path, other_model_folder: Path, tmp_path: Path
) -> None:
    model, index = Path(shutil.copytree(model_folder, tmp_path / "model")), tmp_path / "index"
    build_index(index, drawn_photos, model, device="cpu", show_progress=False)
    PersonGallery.open(index, device="cpu").close()
    shutil.copy(other_model_folder / "model.safetensors", model)
    with pytest.raises(ValueError, match="was built by the model"):
        PersonGallery.open(index, device="cpu")
    shutil.rmtree(model)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        PersonGallery.open(index, device="cpu")


@pytest.mark.parametrize("name", ["facts.json", "graph.pt", "tokenizer.json"])
def test_damaged_encoder_is_not_used_and_written_again(
    name: str, index: Path, drawn_photos: Path, model_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "index"))
    (copy / FOLDER / name).write_bytes(b"damaged")
    with PersonGallery.open(copy, device="cpu") as gallery:
        assert len(gallery.search_text(SENTENCES[1])) == 20
    build_index(copy, drawn_photos, model_folder, device="cpu", show_progress=False)
    manifest = json.loads((copy / "manifest.json").read_text())
    assert open_query_encoder(copy, manifest["model"], manifest["weights"], manifest["config"]) is not None


PROGRAM = """
import sys
from data_pipeline.commands.main import app
try:
    app(["search", "--index", sys.argv[1], "a woman in a red coat", "--json", "--device", "cpu"])
except SystemExit as end:
    assert not end.code
heavy = {"transformers", "datasets", "accelerate", "pandas", "matplotlib", "sklearn", "gradio"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""


def test_search_of_a_sentence_imports_no_model(index: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", PROGRAM, str(index)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert len(json.loads(run.stdout)) == 20
    assert run.stderr.splitlines()[-1] == "[]"
