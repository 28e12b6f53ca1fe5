"""Embeddings of captions: by either kind of encoder, each text once, kept on the disk."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel, CLIPModel

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


def test_a_sentence_encoder_gives_the_mean_over_its_tokens(sentence_encoder: str, tmp_path: Path) -> None:
    vectors = StyleEncoder.load(sentence_encoder, "cpu", tmp_path).embed(TEXTS, batch_size=3)

    tokenizer, model = AutoTokenizer.from_pretrained(sentence_encoder), BertModel.from_pretrained(sentence_encoder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            alone = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, alone / alone.norm(), atol=1e-5)


def test_clip_gives_its_text_features(clip: str, tmp_path: Path) -> None:
    vectors = StyleEncoder.load(clip, "cpu", tmp_path).embed(TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(clip), CLIPModel.from_pretrained(clip)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            alone = model.eval().get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0]
        np.testing.assert_allclose(vector, alone / alone.norm(), atol=1e-5)


def test_a_text_is_cut_where_the_encoder_ends(clip: str, tmp_path: Path) -> None:
    long, longer = StyleEncoder.load(clip, "cpu", tmp_path).embed([" ".join(TEXTS * n) for n in (2, 9)])

    np.testing.assert_allclose(long, longer, atol=1e-6)


def test_equal_texts_are_embedded_once_and_get_equal_vectors(sentence_encoder: str, tmp_path: Path) -> None:
    encoder = StyleEncoder.load(sentence_encoder, "cpu", tmp_path)
    with mock.patch.object(encoder, "_embed_batch", wraps=encoder._embed_batch) as embed:
        vectors = encoder.embed([*TEXTS, *reversed(TEXTS)], batch_size=64)

    assert [sorted(call.args[0]) for call in embed.call_args_list] == [sorted(TEXTS)]
    np.testing.assert_array_equal(vectors[:4], vectors[:3:-1])


def test_a_stopped_run_goes_on_and_a_finished_one_computes_nothing(
    sentence_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style_encoder, "_TEXTS_A_FILE", 2)
    embed_batch = StyleEncoder._embed_batch

    def embed(stop_after: int) -> tuple[np.ndarray, int]:
        """Embeds as a new process would; also how many batches were computed."""
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


def test_an_encoder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    save_sentence_encoder(folder, TEXTS)
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(OSError, match=r"1 weights are missing in it, such as embeddings.word_embeddings.weight"):
        StyleEncoder.load(str(folder))


def test_another_encoder_does_not_read_the_embeddings_of_the_first(
    sentence_encoder: str, clip: str, tmp_path: Path
) -> None:
    assert StyleEncoder.load(sentence_encoder, "cpu", tmp_path).embed(TEXTS).shape == (4, 32)
    assert StyleEncoder.load(clip, "cpu", tmp_path).embed(TEXTS).shape == (4, 8)


def test_a_missing_encoder_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"style encoder {tmp_path}: .*--style-encoder") as error:
        StyleEncoder.load(str(tmp_path))

    assert "\n" not in str(error.value)
