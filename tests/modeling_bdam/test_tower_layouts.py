"""Each family of towers, loaded from the folder of the class that its checkpoints are published in."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modeling_bdam import BDAMModel, BDAMProcessor

from .conftest import CONVNEXT, IMAGE, LAYERS, RESNET, TEXT

pytestmark = pytest.mark.usefixtures("seed")

NEXT = {**CONVNEXT, "num_channels": 3}
# Published class, fields of its config, and the image processor
VISION: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("ViTForImageClassification", IMAGE, "ViTImageProcessorPil"),
    "deit": ("DeiTForImageClassificationWithTeacher", IMAGE, "DeiTImageProcessorPil"),
    "dinov2": ("Dinov2Model", IMAGE, "BitImageProcessorPil"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", IMAGE, "BitImageProcessorPil"),
    "convnext": ("ConvNextForImageClassification", NEXT, "ConvNextImageProcessorPil"),
    "convnextv2": ("ConvNextV2ForImageClassification", NEXT, "ConvNextImageProcessorPil"),
    "resnet": ("ResNetForImageClassification", RESNET, "ConvNextImageProcessorPil"),
    "clip_vision_model": ("CLIPVisionModelWithProjection", IMAGE, "CLIPImageProcessorPil"),
    "siglip_vision_model": ("SiglipVisionModel", IMAGE, "SiglipImageProcessorPil"),
}
TEXTS: dict[str, str] = {
    "bert": "BertForPreTraining",
    "roberta": "RobertaForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "camembert": "CamembertForMaskedLM",
    "mpnet": "MPNetForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
    "clip_text_model": "CLIPTextModelWithProjection",
    "siglip_text_model": "SiglipTextModel",
}


def save(class_name: str, fields: dict[str, Any], folder: Path) -> Any:
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**fields)).eval()
    model.save_pretrained(folder)
    return model


def hidden_states(model: Any, **inputs: Any) -> Any:
    """The tokens of the base model, before a norm that the classes apply to the pooled vector only."""
    base = model.base_model if model.base_model_prefix and hasattr(model, model.base_model_prefix) else model
    return base(**inputs).last_hidden_state


@pytest.mark.parametrize("kind", VISION)
def test_vision_tower_is_loaded_from_its_published_class(
    kind: str, tmp_path: Path, word_tokenizer: Any, photo: Any
) -> None:
    class_name, fields, processor_class = VISION[kind]
    source = save(class_name, fields, tmp_path / "vision")
    own = getattr(transformers, processor_class)(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    own.save_pretrained(tmp_path / "vision")
    save("BertModel", TEXT, tmp_path / "text")
    word_tokenizer(24).save_pretrained(tmp_path / "text")
    folders = str(tmp_path / "vision"), str(tmp_path / "text")
    model = BDAMModel.from_vision_text_pretrained(*folders, hidden_size=32, num_bdam_heads=4, num_bdam_layers=1).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = hidden_states(source, pixel_values=pixels)
    torch.testing.assert_close(hidden_states(model.vision_model, pixel_values=pixels), expected)

    # The processor's own settings; images are squeezed to the size of the crop
    processor = BDAMProcessor.from_towers(*folders).image_processor
    size = own.crop_size or own.size
    side = size.get("height") or size["shortest_edge"]
    assert (processor.size["height"], processor.size["width"]) == (side, side)
    assert processor.resample == own.resample
    image = photo(side, side)
    whole = own(image, do_center_crop=False, do_resize=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"], whole)


@pytest.mark.parametrize("kind", TEXTS)
def test_text_tower_is_loaded_from_its_published_class(kind: str, tmp_path: Path, word_tokenizer: Any) -> None:
    source = save(TEXTS[kind], TEXT, tmp_path / "text")
    word_tokenizer(24).save_pretrained(tmp_path / "text")
    save("ViTModel", IMAGE, tmp_path / "vision")
    folders = str(tmp_path / "vision"), str(tmp_path / "text")
    model = BDAMModel.from_vision_text_pretrained(*folders, hidden_size=32, num_bdam_heads=4, num_bdam_layers=1).eval()
    batch = BDAMProcessor.from_towers(*folders)(text=["a man in red", "a coat"], return_tensors="pt")
    assert batch["input_ids"].shape[1] == (24 if kind == "siglip_text_model" else 4)
    tokens = hidden_states(model.text_model, **batch)
    torch.testing.assert_close(tokens, hidden_states(source, **batch))


T5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 99}
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "naflex": (
        "Siglip2Model",
        {"vision_config": LAYERS, "text_config": {**TEXT, "projection_size": 32}},
        "vision",
        "`siglip2_vision_model` of .* takes pixel_attention_mask, spatial_shapes, but this tower gets only pixel",
    ),
    "t5": ("T5Model", T5, "text", "`t5` of .* is an encoder-decoder: a tower is an encoder, such as `vit` or `bert`"),
    "t5_encoder": ("T5EncoderModel", T5, "text", "`t5` of .* is an encoder-decoder: a tower is an encoder"),
    "umt5_encoder": ("UMT5EncoderModel", T5, "text", "`umt5` of .* is an encoder-decoder"),
    "bert_as_vision": ("BertModel", TEXT, "vision", "`bert` of .* takes input_ids, but this tower gets only pixel_val"),
    "clip_text_as_vision": ("CLIPTextModel", TEXT, "vision", "`clip_text_model` of .* takes input_ids, but this"),
    "vit_as_text": ("ViTModel", IMAGE, "text", "`vit` of .* takes pixel_values, but this tower gets only input_ids"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsuitable_tower_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    class_name, fields, half, message = REFUSED[name]
    save(class_name, fields, tmp_path / half)
    other = "text" if half == "vision" else "vision"
    save("BertModel" if other == "text" else "ViTModel", TEXT if other == "text" else IMAGE, tmp_path / other)
    with pytest.raises(ValueError, match=f"^{half}_config: {message}") as raised:
        BDAMModel.from_vision_text_pretrained(str(tmp_path / "vision"), str(tmp_path / "text"))
    assert "\n" not in str(raised.value)
