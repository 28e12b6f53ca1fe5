"""Tests of the pipeline `person-retrieval`: registration and scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import pipeline

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
def search(checkpoint: Path) -> Any:
    any_pipeline: Any = pipeline  # it is typed for transformers' own tasks only
    return any_pipeline("person-retrieval", model=str(checkpoint), device="cpu")


@pytest.fixture
def images(tmp_path: Path, photo: Any) -> list[str]:
    files = [str(tmp_path / f"{number}.png") for number in range(5)]
    for number, file in enumerate(files):
        photo(40, 20, number).save(file)
    return files


@pytest.mark.parametrize("beta", [None, 0.0, 0.3])
def test_pipeline_scores_equal_model_score(search: Any, images: list[str], beta: float | None) -> None:
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


def test_pipeline_takes_paths_pictures_and_vectors(search: Any, images: list[str]) -> None:
    whole = search(SENTENCES[0], images=images)
    assert search(SENTENCES[0], images=[Image.open(file) for file in images]) == whole
    assert search(SENTENCES[0], images=search.embed(images), top_k=2) == whole[:2]


@pytest.mark.parametrize(
    ("sentence", "count", "message"), [("a man", 0, "there are no images to rank"), (" ", 1, "the sentence is empty")]
)
def test_pipeline_refuses_empty_input(search: Any, images: list[str], sentence: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(sentence, images=images[:count])


@pytest.mark.slow
@pytest.mark.parametrize("order", ["package first", "pipelines first"])
def test_import_registers_the_task_in_any_order(
    order: str, checkpoint: Path, images: list[str], run_python: Any
) -> None:
    *hits, module = run_python(LOAD, order, checkpoint, *images, package=True).split()
    assert module == "modeling_bdam.pipeline_bdam"
    assert sorted(hits) == list("01234")


@pytest.mark.slow
def test_saved_pipeline_contains_its_code(search: Any, images: list[str], tmp_path: Path, run_python: Any) -> None:
    search.save_pretrained(tmp_path / "pipeline")
    *hits, module = run_python(LOAD, "no package", tmp_path / "pipeline", *images, package=False).split()
    assert hits == [str(hit["index"]) for hit in search(SENTENCES[0], images=images)]
    assert module.startswith("transformers_modules.")
