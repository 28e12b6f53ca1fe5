"""`pipeline("person-retrieval")`: known once the package is imported, and ranked as the model scores."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

import modeling_bdam
from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.processing_bdam import default_image_processor

WORDS = ["[PAD]", "[UNK]", "[END]", "a", "man", "woman", "in", "red", "coat"]
SENTENCES = ["a man in a red coat", "a woman"]
LOAD = """
import sys
if sys.argv[1] == "package first":
    import modeling_bdam
    assert "transformers.pipelines" not in sys.modules
from transformers import pipeline
if sys.argv[1] == "pipelines first":
    import modeling_bdam
options = {"trust_remote_code": True} if sys.argv[1] == "no package" else {}
search = pipeline("person-retrieval", model=sys.argv[2], **options)
print(*(hit["index"] for hit in search("a man in a red coat", images=sys.argv[3:])), type(search).__module__)
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A tiny model and its processor, saved."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=24, pad_token="[PAD]", unk_token="[UNK]"
    )
    BDAMModel(tiny_config()).save_pretrained(tmp_path / "model")
    BDAMProcessor(default_image_processor(32, 32), words).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def search(folder: Path) -> Any:
    found: Any = pipeline  # its overloads know the tasks of transformers alone
    return found("person-retrieval", model=str(folder), device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Five small pictures."""
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for number, file in enumerate(files):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(file)
    return files


@pytest.mark.parametrize("beta", [None, 0.0, 0.3])
def test_images_are_ranked_and_scored_as_the_model_scores(search: Any, images: list[Path], beta: float | None) -> None:
    pictures = [Image.open(file) for file in images]
    with torch.no_grad():
        gallery = search.model.get_image_features(**search.processor(images=pictures, return_tensors="pt"))
        queries = search.model.get_text_features(**search.processor(text=SENTENCES, return_tensors="pt"))
        expected = search.model.score(queries.pooler_output, gallery.pooler_output, clothing_weight=beta)
    ranked = search(SENTENCES, images=pictures, clothing_weight=beta)
    for hits, scores in zip(ranked, expected, strict=True):
        assert [hit["index"] for hit in hits] == scores.argsort(descending=True).tolist()
        for hit in hits:
            assert hit["score"] == pytest.approx(float(scores[hit["index"]]), abs=1e-5)
            assert hit["score"] == pytest.approx(hit["identity_score"] + hit["clothing_score"], abs=1e-6)


def test_paths_pictures_and_vectors_give_the_same_and_top_k_cuts(search: Any, images: list[Path]) -> None:
    files = [str(file) for file in images]
    whole = search(SENTENCES[0], images=files)
    assert search(SENTENCES[0], images=[Image.open(file) for file in images]) == whole
    assert search(SENTENCES[0], images=search.embed(files), top_k=2) == whole[:2]


def test_nothing_to_search_in_or_for_is_refused(search: Any, images: list[Path]) -> None:
    with pytest.raises(ValueError, match="there are no images to rank"):
        search("a man", images=[])
    with pytest.raises(ValueError, match="the sentence is empty"):
        search(" ", images=[str(images[0])])


@pytest.mark.slow
def test_importing_the_package_makes_the_task_known_in_either_order_and_imports_no_pipelines(
    folder: Path, images: list[Path]
) -> None:
    for order in ("package first", "pipelines first"):
        printed = run(order, folder, images, Path(modeling_bdam.__file__).parents[1])
        assert printed.endswith(" modeling_bdam.pipeline_bdam")
        assert sorted(printed.split()[:-1]) == list("01234")


@pytest.mark.slow
def test_a_saved_pipeline_carries_its_own_code(search: Any, images: list[Path], tmp_path: Path) -> None:
    search.save_pretrained(tmp_path / "pipeline")
    expected = [str(hit["index"]) for hit in search(SENTENCES[0], images=[str(file) for file in images])]
    printed = run("no package", tmp_path / "pipeline", images, tmp_path).split()
    assert printed[:-1] == expected
    assert printed[-1].startswith("transformers_modules.")


def run(order: str, folder: Path, images: list[Path], path: Path) -> str:
    """What `LOAD` prints in a new interpreter that finds packages in `path`, but not those installed editable."""
    without = "import sys; sys.meta_path = [find for find in sys.meta_path if 'editable' not in repr(find).lower()]"
    home = str(folder.parent / "home")  # for the code that comes with a folder
    environment = {**os.environ, "PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": home}
    command = [sys.executable, "-c", f"{without}\n{LOAD}", order, str(folder), *map(str, images)]
    finished = subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()
