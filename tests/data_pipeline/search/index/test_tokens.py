"""Image tokens in an index, by which a search re-ranks its first hits without the image files."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from data_pipeline.commands.main import app
from data_pipeline.images import open_image
from data_pipeline.search import PersonGallery, build_index
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.index.tokens_file import write_tokens
from data_pipeline.synthetic.dataset import synthetic_row

SENTENCE = "a young woman in a red coat and blue jeans"


def tokens_by_name(index: Path) -> dict[str, np.ndarray]:
    """The stored tokens of all images, [2L, D] each."""
    with PersonGallery.open(index, device="cpu") as gallery:
        tokens = gallery._state.tokens
        assert tokens is not None
        return {gallery.metadata(row)["path"]: tokens[row] for row in range(len(gallery))}


def test_stored_tokens_rank_as_the_image_files(
    photos: Path, matching: Embedder, store: str | None, tmp_path: Path
) -> None:
    picture = Path(shutil.copy(sorted(photos.rglob("*.jpg"))[5], tmp_path / "query.jpg"))
    with (
        PersonGallery.build(tmp_path / "plain", photos, matching, store=store, show_progress=False) as plain,
        PersonGallery.build(
            tmp_path / "tokens", photos, matching, store=store, with_tokens=True, show_progress=False
        ) as stored,
    ):
        searches = [
            lambda gallery: gallery.search_text(SENTENCE, 24, 2.0, rerank=24),
            lambda gallery: gallery.search_text(SENTENCE, 5, 2.0, where="camera > 2", rerank=8),
            lambda gallery: gallery.search_composed(picture, SENTENCE, 5, 2.0, rerank=100),
        ]
        expected = [search(plain) for search in searches]
        with torch.inference_mode():  # tokens in float32
            pixels = matching.processor(images=[plain.image(hit.row) for hit in expected[0]], return_tensors="pt")
            text = matching.processor(text=SENTENCE, return_tensors="pt")
            seen = matching.model.get_image_features(pixels["pixel_values"]).matching_tokens
            words = matching.model.get_text_features(**text).last_hidden_state
            logits = matching.model.match(seen[None], words, text["attention_mask"])[0].tolist()
        shutil.rmtree(photos)
        hits = [search(stored) for search in searches]
    for found, wanted in zip(hits, expected, strict=True):
        assert [hit.name for hit in found] == [hit.name for hit in wanted]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
    scores = [2.0 * 0.5 * logit for logit in logits]
    assert [hit.match_score for hit in hits[0]] == pytest.approx(scores, abs=1e-2)  # float16
    assert len({round(score, 1) for score in scores}) > 10  # far apart, compared with this error


def test_tokens_of_an_index_are_added_updated_and_removed(photos: Path, matching: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"

    def build(with_tokens: bool | None = None) -> tuple[int, int, int]:
        report = build_index(index, photos, matching, with_tokens=with_tokens, show_progress=False)
        files = list(index.glob("generation-*/tokens.npy"))
        assert bool(files) == bool(report.token_bytes)
        # Without the header of the file
        assert not files or 0 < files[0].stat().st_size - report.token_bytes < 200
        return report.embedded, report.removed, report.token_bytes

    size = 24 * 2 * 5 * 32 * 2  # images, kinds, tokens of each kind, width, bytes
    assert build() == (24, 0, 0)
    assert build(with_tokens=True) == (24, 0, size)
    assert build() == (0, 0, size)
    files = sorted(photos.rglob("*.jpg"))
    files[0].unlink()
    (photos / "a_new_first.png").write_bytes(synthetic_row(0, 7, 0, 0)["image"]["bytes"])
    assert build() == (1, 1, size)
    for name, tokens in tokens_by_name(index).items():
        np.testing.assert_allclose(tokens, matching.image_tokens([open_image(photos / name)])[0], rtol=1e-3, atol=1e-3)
    assert build(with_tokens=False) == (0, 0, 0)


def test_damaged_tokens_are_an_error(photos: Path, matching: Embedder, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build_index(index, photos, matching, with_tokens=True, show_progress=False)
    file = next(index.glob("generation-*/tokens.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"the index is damaged \(tokens.npy: .*\); remove the folder and build"):
        PersonGallery.open(index, matching)
    file.unlink()
    with PersonGallery.open(index, matching) as gallery:
        assert len(gallery.search_text(SENTENCE, rerank=3)) == 20


def test_write_tokens_reports_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "tokens.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_tokens(tmp_path, [np.zeros((100, 1000), dtype=np.float16)], (100, 10, 100))


def test_index_command_states_the_size_of_tokens(
    drawn_photos: Path, model_folder: Path, matching_folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"

    def run(model: Path, *options: str) -> tuple[int, str, str]:
        command = ["index", "--model", str(model), "--images", str(drawn_photos), "--index", str(index)]
        result = CliRunner().invoke(app, [*command, "--device", "cpu", "--with-tokens", *options])
        return result.exit_code, result.stdout, result.stderr

    code, _, error = run(model_folder)
    assert code == 1 and "has no matching head" in error and error.count("\n") == 1 and not index.exists()
    code, printed, _ = run(matching_folder, "--dry-run")
    assert code == 0 and "exact search, 15 kB of image tokens; nothing was written" in printed and not index.exists()
    code, printed, _ = run(matching_folder)
    assert code == 0 and printed.endswith("exact search, 15 kB of image tokens\n")
    picture, zipped = next(drawn_photos.rglob("*.jpg")), tmp_path / "hits.zip"
    command = ["search", "--index", index, "--image", picture, SENTENCE, "--rerank", 9, "--json", "--export", zipped]
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert result.exit_code == 0, result.stderr
    assert [bool(hit["match_score"]) for hit in json.loads(result.stdout)] == [True] * 9 + [False] * 11
    assert json.loads(zipfile.ZipFile(zipped).read("hits.json"))["search"]["rerank"] == 9
