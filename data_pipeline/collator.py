"""Rows of a data set to batches of tensors, for training and for retrieval."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from modeling_bdam.processing_bdam import BDAMProcessor, to_rgb

from .augmentation import AugmentationConfig, augment_image, mask_words

_INTEGER_FIELDS = ("person_ids", "outfit_ids", "index")


class TrainCollator:
    """Rows of the data schema (data_pipeline/schema.py) to a training batch.

    Returns `pixel_values [B, 3, H, W]`, `input_ids`, `attention_mask` `[B, L]` of one caption a row, the same pair
    for the descriptions with the prefixes `identity_` and `clothing_` (their own L), and `person_ids [B]` int64. The
    description keys are absent when any row of the batch lacks either description. A row without captions uses its
    descriptions as its caption; a row with neither raises `ValueError`.

    A row may carry `augmentation_seed` (int): its caption is drawn, its image augmented and its caption's words
    masked with a generator of that seed alone, so a batch is a pure function of rows and seeds, whatever the worker,
    the process or the resume. Without a seed: the first caption, nothing augmented. Descriptions are never masked:
    people are compared by what their descriptions say.
    """

    def __init__(self, processor: BDAMProcessor, augmentation: AugmentationConfig | None) -> None:
        masks_words = augmentation is not None and augmentation.word_mask_probability > 0
        if masks_words and processor.tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(processor.tokenizer).__name__} has no mask token: set word_mask_probability to 0, or add a "
                "mask token to the tokenizer."
            )
        self.processor = processor
        self.augmentation = augmentation
        self.pixels = PixelBatcher(processor.image_processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seeds = [row.get("augmentation_seed") for row in rows]
        rngs = [None if seed is None else np.random.default_rng(seed) for seed in seeds]
        captions = [_draw_caption(row, rng) for row, rng in zip(rows, rngs, strict=True)]

        images = (self._load(row["image"], rng) for row, rng in zip(rows, rngs, strict=True))
        batch = {"pixel_values": self.pixels.normalise(images, len(rows)), **_tokenize(self.processor, captions)}
        for input_ids, rng in zip(batch["input_ids"], rngs, strict=True):
            self._mask(input_ids, rng)
        batch["person_ids"] = torch.tensor([row["person_id"] for row in rows], dtype=torch.int64)

        descriptions = {
            prefix: [row.get(f"{prefix}_description") or "" for row in rows] for prefix in ("identity", "clothing")
        }
        if all(text.strip() for texts in descriptions.values() for text in texts):
            for prefix, texts in descriptions.items():
                batch |= {f"{prefix}_{key}": value for key, value in _tokenize(self.processor, texts).items()}
        return batch

    def _load(self, image: Image.Image, rng: np.random.Generator | None) -> np.ndarray:
        """One image, resized and augmented, uint8 [H, W, 3]."""
        pixels = self.pixels.resize(image)
        if self.augmentation is None or rng is None:
            return pixels
        return augment_image(pixels, self.augmentation, self.pixels.fill, rng)

    def _mask(self, input_ids: torch.Tensor, rng: np.random.Generator | None) -> None:
        """Mask words of one caption [L], in place."""
        if self.augmentation is None or rng is None or self.augmentation.word_mask_probability == 0:
            return
        tokenizer = self.processor.tokenizer
        masked = mask_words(
            input_ids.numpy(),
            np.array(tokenizer.all_special_ids),
            tokenizer.mask_token_id,
            self.augmentation.word_mask_probability,
            rng,
        )
        input_ids.copy_(torch.from_numpy(masked))


class RetrievalCollator:
    """Rows of a gallery or of queries to a batch for encoding.

    Rows with `image` (PIL) give `pixel_values [B, 3, H, W]`; rows with `caption` (str) give `input_ids`,
    `attention_mask` `[B, L]`; `person_ids`, `outfit_ids`, `index` (int) become int64 [B]. Other fields are dropped.
    Raises `ValueError` when only some rows of the batch have a field.
    """

    def __init__(self, processor: BDAMProcessor) -> None:
        self.processor = processor
        self.pixels = PixelBatcher(processor.image_processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        if _all_have(rows, "image"):
            batch["pixel_values"] = self.pixels.normalise((self.pixels.resize(row["image"]) for row in rows), len(rows))
        if _all_have(rows, "caption"):
            batch |= _tokenize(self.processor, [row["caption"] for row in rows])
        for field in _INTEGER_FIELDS:
            if _all_have(rows, field):
                batch[field] = torch.tensor([row[field] for row in rows], dtype=torch.int64)
        return batch


class PixelBatcher:
    """What an image processor does (resize, rescale, normalise), for a batch at once and much faster.

    The result equals the image processor's own, to 1e-6. Raises `ValueError` for an image processor that does not
    resize to a fixed height and width, or that crops or pads.
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
        mean = settings["image_mean"] if settings.get("do_normalize") else [0.0] * 3
        std = settings["image_std"] if settings.get("do_normalize") else [1.0] * 3
        self.fill = np.clip(np.rint(np.array(mean) / scale), 0, 255).astype(np.uint8)  # 0 after normalisation
        # (x * scale - mean) / std as one multiplication and one subtraction, [3, 1, 1]
        self.factor = (scale / np.array(std, dtype=np.float64)).astype(np.float32).reshape(3, 1, 1)
        self.offset = (np.array(mean, dtype=np.float64) / np.array(std)).astype(np.float32).reshape(3, 1, 1)

    def resize(self, image: Image.Image) -> np.ndarray:
        """One image of any mode to uint8 [H, W, 3]."""
        return np.asarray(to_rgb(image).resize((self.width, self.height), self.resample))

    def normalise(self, images: Iterable[np.ndarray], count: int) -> torch.Tensor:
        """`count` images, each uint8 [H, W, 3], to float32 [count, 3, H, W].

        A generator of images is best: each is then decoded, converted and scaled while it is in the cache. numpy takes
        huge pages for the result, which halves the time against `torch.empty`.
        """
        pixels = np.empty((count, 3, self.height, self.width), dtype=np.float32)
        for target, image in zip(pixels, images, strict=True):
            target[:] = np.ascontiguousarray(image.transpose(2, 0, 1))
            target *= self.factor
            target -= self.offset
        return torch.from_numpy(pixels)


def _draw_caption(row: dict[str, Any], rng: np.random.Generator | None) -> str:
    captions = [caption for caption in row["captions"] if caption.strip()]
    if not captions:
        descriptions = [row.get("identity_description") or "", row.get("clothing_description") or ""]
        captions = [" ".join(text.strip() for text in descriptions if text.strip())]
        if not captions[0]:
            raise ValueError(
                f"A row of person {row['person_id']} has neither a caption nor a description: drop it, or describe "
                "its image first."
            )
    return captions[0 if rng is None else rng.integers(len(captions))]


def _tokenize(processor: BDAMProcessor, texts: list[str]) -> dict[str, torch.Tensor]:
    tokens = processor(text=texts, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def _all_have(rows: Sequence[dict[str, Any]], field: str) -> bool:
    count = sum(field in row for row in rows)
    if 0 < count < len(rows):
        raise ValueError(f"Only {count} of {len(rows)} rows of the batch have the field {field!r}: do not mix them.")
    return count > 0
