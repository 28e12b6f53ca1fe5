"""The processor of BDAM: converts images and texts to model inputs."""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    ViTImageProcessorPil,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import load_image
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, TextKwargs
from transformers.utils import logging

from .configuration_bdam import nearest_name

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


def tower_image_processor(name_or_path: str) -> ViTImageProcessorPil | None:
    """Creates an image processor with the size, resampling, mean and deviation of a pretrained tower's own.

    A center crop is left out, since it would cut people: images are resized to the size of the crop. Returns None if
    the tower has no image processor, as one that was saved without it.
    """
    try:
        settings = AutoImageProcessor.from_pretrained(name_or_path).to_dict()
    except (OSError, ValueError):
        return None
    size = settings.get("crop_size") or settings["size"]
    edge = size.get("shortest_edge")
    kept = ("do_normalize", "do_rescale", "image_mean", "image_std", "resample", "rescale_factor")
    options = {name: settings[name] for name in kept if settings.get(name) is not None}
    return ViTImageProcessorPil(size={side: size.get(side, edge) for side in ("height", "width")}, **options)


class BDAMProcessor(ProcessorMixin):
    """Combines an image processor and a tokenizer.

    `processor(images=..., text=..., return_tensors="pt")` returns `pixel_values` [B, 3, H, W] and `input_ids`,
    `attention_mask` [B, L]. Texts are padded to the longest of the batch and truncated to the tokenizer's
    `model_max_length`; the first truncation of a process logs a warning. For supported image modes see `to_rgb`.

    A tokenizer without an attention mask among its `model_input_names` belongs to a text tower that was trained with
    padding as tokens (SigLIP): texts are padded to `model_max_length`, and the mask is 1 everywhere.
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
        if "attention_mask" not in tokenizer.model_input_names:
            self.text_kwargs = {**self.text_kwargs, "padding": "max_length"}  # type: ignore[misc]

    @classmethod
    def from_towers(cls, vision: str, text: str) -> "BDAMProcessor":
        """Creates the processor of two pretrained towers: mean, size, resampling and padding are those of the towers.

        Args:
            vision: Hub id or folder of a vision tower or dual encoder; without an image processor, images are resized
                to 224 x 224 and scaled to [-1, 1].
            text: the same for the tokenizer of the text tower.

        Raises:
            OSError: there is no tokenizer.
        """
        config = AutoConfig.from_pretrained(text)
        pads_are_tokens = getattr(config, "text_config", config).model_type == "siglip_text_model"
        options = {"model_input_names": ["input_ids"]} if pads_are_tokens else {}
        tokenizer = AutoTokenizer.from_pretrained(text, **options)
        return cls(tower_image_processor(vision) or default_image_processor(224, 224), tokenizer)

    def __call__(self, images: Any = None, text: str | Iterable[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Processes images (one or a possibly nested list), texts (one or a list), or both; of no images or texts, the
        tensors have no rows.

        Args:
            images: PIL images, paths, bytes, URLs, base64 texts, undecoded images of `datasets`; or arrays and tensors,
                [H, W] or with 1 to 4 channels first or last, integers or floats of 0 to 1 or 0 to 255; [B, ...] for B.
            text: strings.
            **kwargs: those of each transformers processor (`return_tensors`, `padding`, `max_length`, ...). An unknown
                one is ignored after a warning with the nearest name.

        Raises:
            ValueError: neither images nor text is given, or an image or text cannot be read.
        """
        kwargs = self._known_arguments(kwargs)
        empty = []
        if images is not None:
            options = [kwargs, kwargs.get("images_kwargs", {}), kwargs.get("common_kwargs", {})]
            layout = next(filter(None, [option.pop("input_data_format", None) for option in options]), None)
            rescale = next((option["do_rescale"] for option in options if "do_rescale" in option), None)
            rescale = self.image_processor.do_rescale if rescale is None else rescale
            images = [_read(value, number, layout, rescale) for number, value in enumerate(_flat(images))]
            if not images:
                images, empty = [Image.new("RGB", (16, 16))], ["pixel_values"]
        if text is not None:
            is_list = isinstance(text, Iterable) and not isinstance(text, (str, bytes, Mapping))
            texts: Any = list(text) if is_list else [text]
            for number, value in enumerate(texts):
                if not isinstance(value, str):
                    kind = type(value).__name__
                    raise ValueError(f"text {number} is of type {kind}: give a string or a list of strings")
            if not texts:
                texts, empty = [""], [*empty, "input_ids", "attention_mask"]
            text = text if isinstance(text, str) else texts
        batch = super().__call__(images=images, text=text, **kwargs)
        if "attention_mask" in batch and "attention_mask" not in self.tokenizer.model_input_names:
            batch["attention_mask"] = _ones_like(batch["attention_mask"])
        for name in batch.keys() & set(empty):
            batch[name] = batch[name][:0]
        if text is not None and not _truncation_warned:
            merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
            self._warn_if_truncated(texts, batch, merged["text_kwargs"])
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors of a batch with images and texts."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def _known_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the keyword arguments without unknown ones, for each of which it logs a warning."""
        images = {*ImagesKwargs.__annotations__, *self.image_processor.valid_kwargs.__annotations__}
        known = {"text_kwargs": {*TextKwargs.__annotations__}, "images_kwargs": images}
        known["common_kwargs"] = known["text_kwargs"] | images
        known[""] = {*known["common_kwargs"], *known, *ProcessingKwargs.__annotations__, "videos", "audio"}

        def kept(arguments: dict[str, Any], names: set[str]) -> dict[str, Any]:
            for name in arguments.keys() - names:
                hint = nearest_name(name, {*names, "images", "text"}, cutoff=0.6)
                logger.warning_once(f"{type(self).__name__} has no argument `{name}`, which is ignored{hint}")
            return {name: value for name, value in arguments.items() if name in names}

        kwargs = kept(kwargs, known[""])
        return kwargs | {name: kept(kwargs[name], known[name]) for name in kwargs.keys() & known.keys()}

    def _warn_if_truncated(self, texts: list[str], batch: BatchFeature, text_kwargs: dict[str, Any]) -> None:
        global _truncation_warned
        limit = text_kwargs.get("max_length") or self.tokenizer.model_max_length
        ids = batch["input_ids"]
        longest = len(ids) if len(ids) and isinstance(ids[0], int) else max(map(len, ids), default=0)
        if not text_kwargs["truncation"] or longest < limit:
            return
        full = max(len(row) for row in self.tokenizer(texts, truncation=False, verbose=False)["input_ids"])
        if full > limit:
            _truncation_warned = True
            logger.warning(
                f"A text of {full} tokens is longer than the maximum of {limit}: its last {full - limit} tokens were "
                "truncated. Later truncations of this process are not reported."
            )


def _ones_like(mask: Any) -> Any:
    """Returns an attention mask of ones: a tensor, an array, or a nested list."""
    if isinstance(mask, list):
        return [_ones_like(value) for value in mask]
    return mask * 0 + 1


def _flat(images: Any) -> Iterator[Any]:
    """Yields the images of nested lists, of iterables such as the column of a table, and of arrays of images."""
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu()
        images = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    elif hasattr(images, "__array__") and not isinstance(images, (str, Image.Image)):
        images = np.asarray(images)
    is_array = isinstance(images, np.ndarray) and images.ndim < 4 and images.dtype.kind in "biuf"
    is_file = isinstance(images, (str, bytes, bytearray, Mapping)) or hasattr(images, "read")
    if is_array or is_file or not isinstance(images, Iterable):
        yield images
    else:
        for image in images:
            yield from _flat(image)


def _read(image: Any, number: int, layout: str | None, rescale: bool) -> Image.Image | np.ndarray:
    """Converts an image of any form to RGB; `number` is for the error message, the others are as in `_array_to_rgb`."""
    try:
        if isinstance(image, np.ndarray):
            return _array_to_rgb(image, layout, rescale)
        if isinstance(image, Mapping):  # undecoded, of `datasets`
            image = image["path"] if image.get("bytes") is None else image["bytes"]
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            opened = load_image(image)
        elif isinstance(image, str) and not os.path.isfile(image):
            opened = Image.open(BytesIO(base64.b64decode(image.partition(",")[2] or image)))
        elif isinstance(image, Image.Image):
            opened = image
        else:
            opened = Image.open(BytesIO(image) if isinstance(image, (bytes, bytearray)) else image)
        opened.load()
        return to_rgb(opened)
    except Exception as error:
        reason = " ".join(str(error).split())
        if isinstance(image, str) and not os.path.isfile(image) and not image.startswith("http"):
            reason = "there is no such file, and it is no URL and no image in base64"
        elif isinstance(error, UnidentifiedImageError):
            reason = "no image of a known format"
        elif isinstance(error, (AttributeError, TypeError)):
            reason = "give a PIL image, a path, bytes, an array or a tensor"
        shown = repr(image)[:100] if isinstance(image, (str, os.PathLike)) else f"of type {type(image).__name__}"
        raise ValueError(f"image {number}, {shown}, cannot be read: {reason}") from error


def _array_to_rgb(array: np.ndarray, layout: str | None, rescale: bool) -> Image.Image | np.ndarray:
    """Converts an array [H, W] or with 1 to 4 channels first or last to an 8-bit RGB image.

    Args:
        layout: `"channels_first"`, `"channels_last"`, or None to infer it from the shape.
        rescale: False for an image processor that does not divide by 255; floats then keep their range and become
            an array [3, H, W].
    """
    if array.ndim == 2:
        array, layout = array[..., None], "channels_last"
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"its shape is {list(array.shape)}; give [H, W], [H, W, C] or [C, H, W]")
    sides = {"channels_first": array.shape[0], "channels_last": array.shape[2]}
    layout = layout or min(sides, key=lambda side: [3, 4, 1, 2, *sides.values()].index(sides[side]))
    if sides[str(layout)] > 4:
        raise ValueError(f"its shape {list(array.shape)} has no axis of 1 to 4 channels; give a list of images")
    if layout == "channels_first":
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f" and not rescale:
        if array.shape[2] in (2, 4):
            array = 1 + (array[..., :-1] - 1) * array[..., -1:]  # on white
        return np.broadcast_to(array.transpose(2, 0, 1), (3, *array.shape[:2])).astype(np.float32)
    low, high = array.min(), array.max()
    most = {"b": 1, "f": 255}.get(array.dtype.kind, 65535)
    if not 0 <= low <= high <= most:
        raise ValueError(f"its values are {low} to {high}; give floats of 0 to 1, or 0 to 255")
    scale = 255 if high <= 1 and array.dtype.kind in "bf" else 1 / 257 if high > 255 else 1  # 65535 / 257 = 255
    levels = array if array.dtype == np.uint8 else np.rint(array * float(scale)).astype(np.uint8)
    return to_rgb(Image.fromarray(np.ascontiguousarray(levels[..., 0] if levels.shape[2] == 1 else levels)))
