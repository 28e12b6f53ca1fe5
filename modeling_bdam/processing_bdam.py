"""The processor of BDAM: converts images and texts to model inputs."""

from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps
from transformers import BatchFeature, PreTrainedTokenizerBase, ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessorMixin, TextKwargs
from transformers.utils import logging

logger = logging.get_logger(__name__)

_EXIF_ORIENTATION = 0x0112
_truncation_warned = False


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a PIL image of any mode (palette, CMYK, 16-bit gray, transparent) to 8-bit RGB, upright by its EXIF tag.

    Transparent pixels become white. 16-bit gray (`I;16`, or `I` with values above 255) is scaled to 8 bits, which PIL's
    `convert` would clip. An upright RGB image is returned without a copy.
    """
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float64)
        if image.mode.startswith("I;16") or levels.max() > 255:
            levels = levels / 257  # 65535 / 255
        return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def default_image_processor(height: int, width: int) -> ViTImageProcessorPil:
    """Creates the image processor of new towers: resizes to `height` x `width` pixels and scales to [-1, 1]."""
    return ViTImageProcessorPil(size={"height": height, "width": width}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


class BDAMProcessor(ProcessorMixin):
    """Combines an image processor and a tokenizer.

    `processor(images=..., text=..., return_tensors="pt")` returns `pixel_values` [B, 3, H, W] and `input_ids`,
    `attention_mask` [B, L]. Texts are padded to the longest of the batch and truncated to the tokenizer's
    `model_max_length`; the first truncation of a process logs a warning. For supported image modes see `to_rgb`.
    """

    _auto_class = "AutoProcessor"  # type: ignore[assignment]  # save_pretrained copies this code
    text_kwargs: ClassVar[TextKwargs] = {  # type: ignore[misc]  # lowest-priority defaults
        "padding": True,
        "truncation": True,
        "return_attention_mask": True,
        "return_token_type_ids": False,
    }

    def __init__(self, image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(image_processor, tokenizer)

    def __call__(
        self, images: ImageInput | None = None, text: str | list[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Processes images (PIL, arrays, paths or URLs; one or a list), texts (one or a list), or both.

        Keyword arguments are those of each transformers processor (`return_tensors`, `padding`, `max_length`, ...).
        Raises `ValueError` if neither images nor text is given.
        """
        batch = super().__call__(images=images, text=text, **kwargs)
        if text and not _truncation_warned:
            merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
            self._warn_if_truncated([text] if isinstance(text, str) else text, batch, merged["text_kwargs"])
        return batch

    def prepare_inputs_layout(self, images: ImageInput | None = None, **kwargs) -> tuple:  # type: ignore[override]
        """Loads images given as paths or URLs and converts PIL images to upright RGB."""
        images, *others = super().prepare_inputs_layout(images=images, **kwargs)
        return _map_images(images), *others

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors of a batch with images and texts."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def _warn_if_truncated(self, texts: list[str], batch: BatchFeature, text_kwargs: dict[str, Any]) -> None:
        global _truncation_warned
        limit = text_kwargs.get("max_length") or self.tokenizer.model_max_length
        ids = batch["input_ids"]
        longest = len(ids) if isinstance(ids[0], int) else max(len(row) for row in ids)
        if not text_kwargs["truncation"] or longest < limit:
            return
        full = max(len(row) for row in self.tokenizer(texts, truncation=False, verbose=False)["input_ids"])
        if full > limit:
            _truncation_warned = True
            logger.warning(
                f"A text of {full} tokens is longer than the maximum of {limit}: its last {full - limit} tokens were "
                "truncated. Later truncations of this process are not reported."
            )


def _map_images(images: Any) -> Any:
    """Applies `to_rgb` to each PIL image of a possibly nested list; other values are unchanged."""
    if isinstance(images, (list, tuple)):
        return [_map_images(image) for image in images]
    return to_rgb(images) if isinstance(images, Image.Image) else images
