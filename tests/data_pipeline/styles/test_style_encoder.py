"""Embeddings by both kinds of encoders, with a cache."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from data_pipeline.styles import style_encoder
from data_pipeline.styles.style_encoder import StyleEncoder

from .tiny_text_encoders import save_clip, save_sentence_encoder

TEXTS = ["a person in something", "the person wears something", "something", "person, something on a person"]


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_sentence_encoder(tmp_path_factory.mktemp("encoder"), TEXTS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"), TEXTS)


@pytest.mark.parametrize("kind", ["sentence_encoder", "clip"])
def test_embed_equals_the_models_features(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    vectors = StyleEncoder.load(folder, "cpu", tmp_path).embed(TEXTS, batch_size=3)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            if kind == "clip":
                single = model.get_text_features(**tokens).pooler_output[0]
            else:
                single = model(**tokens).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, single / single.norm(), atol=1e-5)


def test_embed_truncates_long_texts(clip: str, tmp_path: Path) -> None:
    long, longer = StyleEncoder.load(clip, "cpu", tmp_path).embed([" ".join(TEXTS * n) for n in (2, 9)])
    np.testing.assert_allclose(long, longer, atol=1e-6)


def test_embed_computes_equal_texts_once(sentence_encoder: str, tmp_path: Path) -> None:
    encoder = StyleEncoder.load(sentence_encoder, "cpu", tmp_path)
    with mock.patch.object(encoder, "_embed_batch", wraps=encoder._embed_batch) as embed:
        vectors = encoder.embed([*TEXTS, *reversed(TEXTS)], batch_size=64)
    assert [sorted(call.args[0]) for call in embed.call_args_list] == [sorted(TEXTS)]
    np.testing.assert_array_equal(vectors[:4], vectors[:3:-1])


def test_embed_resumes_from_the_cache(sentence_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_encoder, "_TEXTS_PER_FILE", 2)
    embed_batch = StyleEncoder._embed_batch

    def embed(stop_after: int) -> tuple[np.ndarray, int]:
        """Embeds as a new process would; also returns the number of computed batches."""
        with mock.patch.object(StyleEncoder, "_embed_batch", autospec=True, side_effect=embed_batch) as computed:
            if stop_after:
                computed.side_effect = [np.zeros((2, 32), np.float32)] * stop_after + [KeyboardInterrupt]
            vectors = StyleEncoder.load(sentence_encoder, "cpu", tmp_path).embed(TEXTS)
            return vectors, computed.call_count

    with pytest.raises(KeyboardInterrupt):
        embed(stop_after=1)
    first, batches = embed(stop_after=0)
    assert batches == 1
    second, batches = embed(stop_after=0)
    assert batches == 0
    np.testing.assert_array_equal(first, second)
    assert {file.suffix for file in (tmp_path / "style_embeddings").iterdir()} == {".npy"}


def test_embed_caches_each_encoder_separately(sentence_encoder: str, clip: str, tmp_path: Path) -> None:
    assert StyleEncoder.load(sentence_encoder, "cpu", tmp_path).embed(TEXTS).shape == (4, 32)
    assert StyleEncoder.load(clip, "cpu", tmp_path).embed(TEXTS).shape == (4, 8)


def test_load_rejects_a_model_with_missing_weights(tmp_path: Path) -> None:
    save_sentence_encoder(tmp_path, TEXTS)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match=r"1 weights are missing, such as embeddings.word_embeddings.weight"):
        StyleEncoder.load(str(tmp_path))


def test_load_reports_a_missing_encoder_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"style encoder {tmp_path}: .*--style-encoder") as error:
        StyleEncoder.load(str(tmp_path))
    assert "\n" not in str(error.value)
