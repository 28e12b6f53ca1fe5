"""Collates rows of a data set into batches of tensors, for training and for retrieval."""

import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from modeling_bdam.processing_bdam import BDAMProcessor

from ..images import ImageFile, open_image
from .augmentation import AugmentationConfig, augment_image, mask_words

ImageSource = ImageFile | Image.Image
_last_batch = threading.local()
_INTEGER_FIELDS = ("person_ids", "outfit_ids", "index")


class TrainCollator:
    """Collates rows of the data schema (data_pipeline/schema.py) into a training batch.

    With `one_text`, for a plain dual encoder, the text of a row is drawn from its captions and its two descriptions
    joined, and the batch has no description keys.

    The batch contains `pixel_values [B, 3, H, W]`, `input_ids`, `attention_mask` `[B, L]` of one caption per row, the
    same pair for the descriptions with the prefixes `identity_` and `clothing_` (with their own L), and `person_ids
    [B]` int64. The description keys are absent if no row of the batch has both descriptions.

    Images are PIL images or undecoded files of `with_image_files`. A row without captions falls back to its
    `styled_captions` (an optional column), then to its descriptions.

    `augmentation_seed` (int) of a row seeds the generator that draws its caption, augments its image and masks words
    of its caption. A batch is therefore a pure function of rows and seeds, independent of worker, rank and resume.
    Without a seed, the first caption is used and nothing is augmented. Descriptions are never masked, since they
    define which people look alike.

    Raises:
        ValueError: a row without any text, or a batch in which only some rows have both descriptions: ranks with
            different batch keys would deadlock in the all-gather.
        UnreadableImageError: an image file cannot be read; the message names it.
    """

    def __init__(
        self, processor: BDAMProcessor, augmentation: AugmentationConfig | None, one_text: bool = False
    ) -> None:
        masks_words = augmentation is not None and augmentation.word_mask_probability > 0
        if masks_words and processor.tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(processor.tokenizer).__name__} has no mask token: set word_mask_probability to 0, or add a "
                "mask token to the tokenizer."
            )
        self.processor = processor
        self.augmentation = augmentation
        self.one_text = one_text
        self.pixels = PixelBatcher(processor.image_processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seeds = [row.get("augmentation_seed") for row in rows]
        rngs = [None if seed is None else np.random.default_rng(seed) for seed in seeds]
        styled = 0.0 if self.augmentation is None else self.augmentation.styled_caption_probability
        captions = [_draw_caption(row, rng, styled, self.one_text) for row, rng in zip(rows, rngs, strict=True)]

        images = (self._load(row["image"], rng) for row, rng in zip(rows, rngs, strict=True))
        batch = {"pixel_values": self.pixels.normalize(images, len(rows)), **_tokenize(self.processor, captions)}
        for input_ids, rng in zip(batch["input_ids"], rngs, strict=True):
            self._mask(input_ids, rng)
        batch["person_ids"] = torch.tensor([row["person_id"] for row in rows], dtype=torch.int64)

        if not self.one_text and _all_described(rows):
            for prefix in ("identity", "clothing"):
                texts = _tokenize(self.processor, [row[f"{prefix}_description"] for row in rows])
                batch |= {f"{prefix}_{key}": value for key, value in texts.items()}
        return batch

    def _load(self, image: ImageSource, rng: np.random.Generator | None) -> np.ndarray:
        """Returns one image, resized and augmented, uint8 [H, W, 3]."""
        pixels = self.pixels.resize(image)
        if self.augmentation is None or rng is None:
            return pixels
        return augment_image(pixels, self.augmentation, self.pixels.fill, rng)

    def _mask(self, input_ids: torch.Tensor, rng: np.random.Generator | None) -> None:
        """Masks words of one caption [L], in place."""
        probability = 0.0 if self.augmentation is None else self.augmentation.word_mask_probability
        if rng is None or probability == 0:
            return
        tokenizer = self.processor.tokenizer
        special_ids = np.array(tokenizer.all_special_ids)
        masked = mask_words(input_ids.numpy(), special_ids, tokenizer.mask_token_id, probability, rng)
        input_ids.copy_(torch.from_numpy(masked))


class RetrievalCollator:
    """Collates rows of a gallery or of queries into a batch for encoding.

    `image` (a PIL image, or a file of `with_image_files`) becomes `pixel_values [B, 3, H, W]`; `caption` (str) becomes
    `input_ids`, `attention_mask` `[B, L]`; `person_ids`, `outfit_ids`, `index` (int) become int64 [B]. Other fields
    are dropped.

    Raises:
        ValueError: only some rows of the batch have a field.
        UnreadableImageError: an image file cannot be read; the message names it.
    """

    def __init__(self, processor: BDAMProcessor) -> None:
        self.processor = processor
        self.pixels = PixelBatcher(processor.image_processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        if _all_have(rows, "image"):
            batch["pixel_values"] = self.pixels.normalize((self.pixels.resize(row["image"]) for row in rows), len(rows))
        if _all_have(rows, "caption"):
            batch |= _tokenize(self.processor, [row["caption"] for row in rows])
        for field in _INTEGER_FIELDS:
            if _all_have(rows, field):
                batch[field] = torch.tensor([row[field] for row in rows], dtype=torch.int64)
        return batch


class PixelBatcher:
    """Resizes, rescales and normalizes a batch of images with the settings of an image processor, but much faster.

    The result equals that of the image processor up to 1e-6, or up to a few gray levels for a JPEG much larger than the
    target size (see `open_image`). Raises `ValueError` for an image processor that does not resize to a fixed height
    and width, or that crops or pads.
    """

    def __init__(self, image_processor: BaseImageProcessor) -> None:
        settings = image_processor.to_dict()
        size = settings.get("size") or {}
        if not settings.get("do_resize") or not size.get("height") or not size.get("width"):
            raise ValueError(
                f"The image processor must resize to a fixed height and width, but has do_resize="
                f"{settings.get('do_resize')}, size={size}: build it with size={{'height': H, 'width': W}}."
            )
        if settings.get("do_center_crop") or settings.get("do_pad"):
            raise ValueError(
                "The image processor crops or pads after resizing, which would cut people: build it with "
                "do_center_crop=False, do_pad=False."
            )
        self.height, self.width = size["height"], size["width"]
        self.resample = Image.Resampling(settings["resample"])
        scale = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
        normalizes = settings.get("do_normalize")
        mean = np.array(settings["image_mean"] if normalizes else [0.0] * 3, dtype=np.float64)
        std = np.array(settings["image_std"] if normalizes else [1.0] * 3, dtype=np.float64)
        self.fill = np.clip(np.rint(mean / scale), 0, 255).astype(np.uint8)  # 0 after normalization
        # (x * scale - mean) / std as one multiplication and one subtraction, [3, 1, 1]
        self.factor = (scale / std).astype(np.float32).reshape(3, 1, 1)
        self.offset = (mean / std).astype(np.float32).reshape(3, 1, 1)

    def resize(self, source: ImageSource) -> np.ndarray:
        """Resizes an input of `open_image` to uint8 [H, W, 3], read-only; raises `UnreadableImageError`."""
        size = self.width, self.height
        image = open_image(source, size)
        if image.size != size:
            image = image.resize(size, self.resample)
        # Line-interleaved channels ("RGB;L"): `normalize` needs each channel separately, and splitting the interleaved
        # pixels of `np.asarray(image)` would be its most expensive step.
        packed = np.frombuffer(image.tobytes("raw", "RGB;L"), dtype=np.uint8)
        return packed.reshape(self.height, 3, self.width).transpose(0, 2, 1)

    def normalize(self, images: Iterable[np.ndarray], count: int) -> torch.Tensor:
        """Normalizes `count` images, each uint8 [H, W, 3], to float32 [count, 3, H, W].

        Pass a generator, so that each image is decoded, converted and scaled while it is in the CPU cache.
        """
        pixels = _batch_memory((count, 3, self.height, self.width))
        for target, image in zip(pixels, images, strict=True):
            target[:] = image.transpose(2, 0, 1)
            target *= self.factor
            target -= self.offset
        return torch.from_numpy(pixels)


def _batch_memory(shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 memory for a batch: that of this thread's last batch if it has no references any more.

    Allocating fresh memory for a large batch would take a fifth of the time of decoding its images.
    """
    memory, last_view = getattr(_last_batch, "value", (np.empty(0), lambda: None))
    if memory.shape != shape or last_view() is not None:
        memory = np.empty(shape, dtype=np.float32)
    view = memory.view()  # tensors and arrays that share the memory keep this view alive
    _last_batch.value = memory, weakref.ref(view)
    return view


def _draw_caption(
    row: dict[str, Any], rng: np.random.Generator | None, styled_probability: float, with_descriptions: bool
) -> str:
    texts = ([text for text in row.get(name) or [] if text.strip()] for name in ("captions", "styled_captions"))
    captions, styled = texts
    if styled and (not captions or (rng is not None and rng.random() < styled_probability)):
        captions = styled
    if with_descriptions or not captions:
        descriptions = [row.get("identity_description") or "", row.get("clothing_description") or ""]
        captions = [*captions, *filter(None, [" ".join(text.strip() for text in descriptions if text.strip())])]
    if not captions:
        raise ValueError(f"{_name(row)} has neither a caption nor a description: drop it, or describe its image first.")
    return captions[0 if rng is None else rng.integers(len(captions))]


def _all_described(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether all rows have both descriptions; raises `ValueError` if only some have."""
    keys = ("identity_description", "clothing_description")
    described = [all((row.get(key) or "").strip() for key in keys) for row in rows]
    if any(described) and not all(described):
        raise ValueError(
            f"{sum(described)} of {len(rows)} rows of the batch have both descriptions, but "
            f"{_name(rows[described.index(False)])} has not: train on rows that have them, or on rows without them."
        )
    return all(described)


def _name(row: dict[str, Any]) -> str:
    file = row.get("file_path")
    return f"A row of person {row['person_id']}" + (f" ({file})" if file else "")


def _tokenize(processor: BDAMProcessor, texts: list[str]) -> dict[str, torch.Tensor]:
    tokens = processor(text=texts, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def _all_have(rows: Sequence[dict[str, Any]], field: str) -> bool:
    count = sum(field in row for row in rows)
    if 0 < count < len(rows):
        raise ValueError(f"Only {count} of {len(rows)} rows of the batch have the field {field!r}: do not mix them.")
    return count > 0
