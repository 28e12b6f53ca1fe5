"""What a user knows from CLIP's page works with the class names changed, in any precision and compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoProcessor, PreTrainedTokenizerFast

from modeling_bdam import BDAMModel, BDAMProcessor
from modeling_bdam.processing_bdam import default_image_processor

WORDS = ["[PAD]", "[UNK]", "[END]", "a", "photo", "of", "man", "woman", "in", "red", "coat"]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_config: Callable[..., Any]) -> str:
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=24, pad_token="[PAD]", unk_token="[UNK]"
    )
    BDAMModel(tiny_config(initializer_range=0.2)).save_pretrained(tmp_path)
    BDAMProcessor(default_image_processor(32, 32), words).save_pretrained(tmp_path)
    return str(tmp_path)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))


def test_the_example_of_clips_page_works_with_the_class_names_changed(checkpoint: str) -> None:
    model = BDAMModel.from_pretrained(checkpoint)
    processor = BDAMProcessor.from_pretrained(checkpoint)

    image = picture()
    inputs = processor(text=["a photo of a man", "a photo of a woman"], images=image, return_tensors="pt", padding=True)

    with torch.inference_mode():
        outputs = model(**inputs)
    logits_per_image = outputs.logits_per_image  # this is the image-text similarity score
    probs = logits_per_image.softmax(dim=1)  # we can take the softmax to get the label probabilities

    assert probs.shape == (1, 2)
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
    assert outputs.logits_per_text.T.equal(logits_per_image)
    assert outputs.image_embeds.shape == (1, outputs.text_embeds.shape[1])


def test_auto_classes_features_and_devices_work_as_for_clip(checkpoint: str) -> None:
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa", device_map="cpu")
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert model.dtype == torch.bfloat16 and model.device.type == "cpu"
    inputs = processor(images=picture(), return_tensors="pt").to(model.device, model.dtype)
    texts = processor(text=["a man", "a woman in a red coat"], padding=True, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        image_features = model.get_image_features(**inputs).pooler_output
        text_features = model.get_text_features(**texts).pooler_output
    exact = BDAMModel.from_pretrained(checkpoint)
    with torch.inference_mode():
        expected = exact.get_image_features(inputs["pixel_values"].float()).pooler_output
    assert image_features.shape == expected.shape and text_features.shape == (2, expected.shape[1])
    assert torch.cosine_similarity(image_features.float(), expected).item() > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_same_vectors(checkpoint: str, dtype: torch.dtype) -> None:
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exact, half = BDAMModel.from_pretrained(checkpoint), BDAMModel.from_pretrained(checkpoint, dtype=dtype)
    with torch.inference_mode():
        expected = exact.get_image_features(pixels).pooler_output
        found = half.get_image_features(pixels.to(dtype)).pooler_output
    assert found.dtype == dtype
    assert (torch.cosine_similarity(found.float(), expected) > 0.99).all()


def test_a_compiled_model_gives_the_same_vectors_for_any_batch(checkpoint: str) -> None:
    model = BDAMModel.from_pretrained(checkpoint)
    compiled = torch.compile(model.get_image_features, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (2, 5):
        pixels = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            torch.testing.assert_close(compiled(pixels).pooler_output, model.get_image_features(pixels).pooler_output)
