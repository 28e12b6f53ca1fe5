"""ONNX encoders against torch, for any batch size and text length, and quantized to 8 bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_bdam import BDAMModel
from modeling_bdam.conversion.onnx import OnnxEmbedder, export_onnx, quantize_int8

pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

TOWERS = [
    "vit",
    *(pytest.param(towers, marks=pytest.mark.slow) for towers in ("clip", "siglip", "dinov2", "convnext", "resnet")),
]


def text_batch(size: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [size, length], with right padding of random length."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(3, 99, (size, length), generator=generator)
    mask = (torch.arange(length) < torch.randint(1, length + 1, (size, 1), generator=generator)).long()
    return ids * mask, mask


def vectors(model: BDAMModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        images, texts = model.get_image_features(pixels), model.get_text_features(ids, mask)
    return images.pooler_output.numpy(), texts.pooler_output.numpy()


@pytest.mark.parametrize("towers", TOWERS)
def test_export_onnx_equals_torch_for_any_batch_size(
    towers: str, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = BDAMModel(tiny_config(towers, initializer_range=0.2)).eval()
    files = export_onnx(model, tmp_path, image_size=(32, 32))
    assert {path.name for path in tmp_path.iterdir()} == {"image.onnx", "text.onnx"}
    embedder, small = OnnxEmbedder(files.image, files.text), OnnxEmbedder(quantize_int8(files.image), files.text)
    generator = torch.Generator().manual_seed(0)
    for size, length in ((1, 1), (2, 8), (97, 24)):
        pixels, (ids, mask) = torch.randn(size, 3, 32, 32, generator=generator), text_batch(size, length)
        images, texts = vectors(model, pixels, ids, mask)
        np.testing.assert_allclose(embedder.images(pixels.numpy()), images, atol=1e-4)
        np.testing.assert_allclose(embedder.texts(ids.numpy(), mask.numpy()), texts, atol=1e-4)
        cosines = (small.images(pixels.numpy()) * images).sum(axis=1) / 2  # the two halves have length 1 each
        assert cosines.mean() > 0.99
    assert (tmp_path / "image_int8.onnx").stat().st_size < files.image.stat().st_size


@pytest.mark.slow
def test_exported_matching_head_equals_torch(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    torch.manual_seed(0)
    model = BDAMModel(tiny_config(use_matching=True, matching_hidden_size=16, initializer_range=0.2)).eval()
    files = export_onnx(model, tmp_path, image_size=(32, 32), text_length=12)
    assert files.match is not None
    pixels, (ids, mask) = torch.randn(3, 3, 32, 32), text_batch(3, 12)
    image, text, match = (InferenceSession(path) for path in (files.image, files.text, files.match))
    seen = image.run(["tokens"], {"pixel_values": pixels.numpy()})[0]
    words = text.run(["tokens"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    logits = match.run(None, {"image_tokens": seen, "text_tokens": words, "text_mask": mask.numpy()})[0]
    with torch.no_grad():
        tokens = model.get_image_features(pixels).matching_tokens, model.get_text_features(ids, mask).last_hidden_state
        expected = model.match(tokens[0][:, None], tokens[1], mask)[:, 0]
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_export_onnx_fixes_text_length_for_fused_tokens(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BDAMModel(tiny_config(fusion_sequence="token")).eval()
    with pytest.raises(ValueError, match="pass text_length, such as the tokenizer's model_max_length"):
        export_onnx(model, tmp_path, image_size=(32, 32))
    files = export_onnx(model, tmp_path, image_size=(32, 32), text_length=12)
    pixels, (ids, mask) = torch.randn(3, 3, 32, 32), text_batch(3, 12)
    images, texts = vectors(model, pixels, ids, mask)
    embedder = OnnxEmbedder(files.image, files.text)
    np.testing.assert_allclose(embedder.images(pixels.numpy()), images, atol=1e-4)
    np.testing.assert_allclose(embedder.texts(ids.numpy(), mask.numpy()), texts, atol=1e-4)
