"""Tests that code written for CLIP works for BDAM with only the class names changed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_bdam import BDAMModel, BDAMProcessor


def test_example_of_clips_documentation(checkpoint: Path, photo: Any) -> None:
    model = BDAMModel.from_pretrained(checkpoint)
    processor = BDAMProcessor.from_pretrained(checkpoint)

    image = photo()
    inputs = processor(text=["a photo of a man", "a photo of a woman"], images=image, return_tensors="pt", padding=True)

    with torch.inference_mode():
        outputs = model(**inputs)
    logits_per_image = outputs.logits_per_image  # this is the image-text similarity score
    probs = logits_per_image.softmax(dim=1)  # we can take the softmax to get the label probabilities

    assert probs.shape == (1, 2)
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
    assert outputs.logits_per_text.T.equal(logits_per_image)
    assert outputs.image_embeds.shape == (1, outputs.text_embeds.shape[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_classes_load_in_half_precision(checkpoint: Path, photo: Any, dtype: torch.dtype) -> None:
    model = AutoModel.from_pretrained(checkpoint, dtype=dtype, attn_implementation="sdpa", device_map="cpu")
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert model.dtype == dtype and model.device.type == "cpu"
    pictures = [photo(seed=number) for number in range(4)]
    inputs = processor(images=pictures, return_tensors="pt").to(model.device, model.dtype)
    texts = processor(text=["a man", "a woman in a red coat"], padding=True, return_tensors="pt").to(model.device)
    exact = BDAMModel.from_pretrained(checkpoint)
    with torch.inference_mode():
        image_features = model.get_image_features(**inputs).pooler_output
        text_features = model.get_text_features(**texts).pooler_output
        expected = exact.get_image_features(inputs["pixel_values"].float()).pooler_output
    assert image_features.dtype == dtype
    assert image_features.shape == expected.shape and text_features.shape == (2, expected.shape[1])
    assert (torch.cosine_similarity(image_features.float(), expected) > 0.99).all()
