"""Augments training images and captions; each random draw uses the generator argument."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AugmentationConfig:
    """Probabilities and strengths of the augmentations, all in [0, 1]; another value raises a `ValueError`.

    Attributes:
        crop_padding: border added before the crop, as a share of each side's length.
        erase_area: largest share of the image that is erased.
        jitter_strength: s scales brightness, contrast and saturation by a factor from [1 - s, 1 + s]. Jitter is off
            by default, because captions name colors.
        word_mask_probability: applies to each token of the caption.
        styled_caption_probability: probability that the caption is one of the row's `styled_captions`, if it has any.
    """

    flip_probability: float = 0.5
    crop_probability: float = 0.5
    crop_padding: float = 0.05
    erase_probability: float = 0.3
    erase_area: float = 0.3
    jitter_probability: float = 0.0
    jitter_strength: float = 0.2
    word_mask_probability: float = 0.1
    styled_caption_probability: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"AugmentationConfig.{name}={value} must be between 0 and 1.")


def augment_image(
    pixels: np.ndarray, config: AugmentationConfig, fill: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Applies flip, crop, jitter and erasing, in this order, to `pixels` uint8 [H, W, 3]; returns a new array.

    `fill` uint8 [3] is the color of padding and of erased pixels.
    """
    if rng.random() < config.flip_probability:
        pixels = horizontal_flip(pixels)
    if rng.random() < config.crop_probability:
        pixels = pad_and_crop(pixels, config.crop_padding, fill, rng)
    if rng.random() < config.jitter_probability:
        pixels = jitter_colors(pixels, config.jitter_strength, rng)
    if rng.random() < config.erase_probability:
        pixels = erase_rectangle(pixels, config.erase_area, fill, rng)
    return pixels


def horizontal_flip(pixels: np.ndarray) -> np.ndarray:
    """Mirrors [H, W, 3] left to right, as a view."""
    return pixels[:, ::-1]


def pad_and_crop(pixels: np.ndarray, padding: float, fill: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pads each side of [H, W, 3] with `fill` by the share `padding` of its length, then crops [H, W, 3] at random."""
    height, width, channels = pixels.shape
    border_y, border_x = round(height * padding), round(width * padding)
    padded = np.empty((height + 2 * border_y, channels, width + 2 * border_x), dtype=pixels.dtype).transpose(0, 2, 1)
    padded[:] = fill
    padded[border_y : border_y + height, border_x : border_x + width] = pixels
    top, left = rng.integers(2 * border_y + 1), rng.integers(2 * border_x + 1)
    return padded[top : top + height, left : left + width]


def jitter_colors(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scales brightness, contrast (around the mean gray) and saturation (around each pixel's gray) of [H, W, 3]."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3).astype(np.float32)
    gray_weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601 luma, as PIL's mode "L"
    colors = pixels.astype(np.float32) * brightness
    mean_gray = (colors @ gray_weights).mean()
    colors = mean_gray + contrast * (colors - mean_gray)
    gray = (colors @ gray_weights)[..., None]  # [H, W, 1]
    colors = gray + saturation * (colors - gray)
    return np.clip(np.rint(colors), 0, 255).astype(np.uint8)


def erase_rectangle(pixels: np.ndarray, max_area: float, fill: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Erases one random rectangle of [H, W, 3]: random erasing (Zhong et al., 2020).

    The area is a share from [0.02, max_area], the ratio of height to width is from [0.3, 3.3]; a rectangle larger than
    the image is clipped.
    """
    height, width, _ = pixels.shape
    area = rng.uniform(min(0.02, max_area), max_area) * height * width
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    erased_height = min(height, int(np.sqrt(area * ratio)))
    erased_width = min(width, int(np.sqrt(area / ratio)))
    top, left = rng.integers(height - erased_height + 1), rng.integers(width - erased_width + 1)
    pixels = pixels.copy(order="K")
    pixels[top : top + erased_height, left : left + erased_width] = fill
    return pixels


def mask_words(
    input_ids: np.ndarray, special_ids: np.ndarray, mask_token_id: int, probability: float, rng: np.random.Generator
) -> np.ndarray:
    """Replaces ordinary tokens of `input_ids` [L] by the mask token, with this probability per token.

    Special tokens take no random draw, so that padding does not change the result.
    """
    ordinary = np.flatnonzero(~np.isin(input_ids, special_ids))
    masked = input_ids.copy()
    masked[ordinary[rng.random(len(ordinary)) < probability]] = mask_token_id
    return masked
