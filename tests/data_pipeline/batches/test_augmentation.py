"""Augmentations: effect, unchanged input, and dependence on the generator only."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.batches.augmentation import (
    AugmentationConfig,
    augment_image,
    erase_rectangle,
    horizontal_flip,
    jitter_colors,
    mask_words,
    pad_and_crop,
)

FILL = np.array([1, 2, 3], dtype=np.uint8)
NEVER = AugmentationConfig(
    flip_probability=0, crop_probability=0, erase_probability=0, jitter_probability=0, word_mask_probability=0
)
ALWAYS = replace(NEVER, flip_probability=1, crop_probability=1, erase_probability=1, jitter_probability=1)


def picture(height: int = 40, width: int = 20) -> np.ndarray:
    """Random pixels without the color FILL."""
    return np.random.default_rng(0).integers(10, 256, (height, width, 3), dtype=np.uint8)


def test_augment_image_is_deterministic_and_not_in_place() -> None:
    pixels = picture()
    first = augment_image(pixels, ALWAYS, FILL, np.random.default_rng(1))
    second = augment_image(pixels, ALWAYS, FILL, np.random.default_rng(1))
    other = augment_image(pixels, ALWAYS, FILL, np.random.default_rng(2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    np.testing.assert_array_equal(pixels, picture())
    assert first.shape == pixels.shape and first.dtype == np.uint8


def test_augment_image_with_probability_0_is_the_identity() -> None:
    np.testing.assert_array_equal(augment_image(picture(), NEVER, FILL, np.random.default_rng(0)), picture())


def test_augment_image_probability_is_the_share_of_changes() -> None:
    config = replace(NEVER, flip_probability=0.3)
    rng = np.random.default_rng(0)
    changed = sum((augment_image(picture(), config, FILL, rng) != picture()).any() for _ in range(2000))
    assert 520 < changed < 680  # 600 +- 4 standard deviations


def test_horizontal_flip_mirrors_left_to_right() -> None:
    np.testing.assert_array_equal(horizontal_flip(picture()), np.fliplr(picture()))


def test_pad_and_crop_returns_every_window() -> None:
    pixels = picture()
    padded = np.stack([np.pad(pixels[..., c], ((4, 4), (2, 2)), constant_values=FILL[c]) for c in range(3)], axis=-1)
    windows = {padded[y : y + 40, x : x + 20].tobytes() for y in range(9) for x in range(5)}
    rng = np.random.default_rng(0)
    seen = {pad_and_crop(pixels, 0.1, FILL, rng).tobytes() for _ in range(600)}
    assert seen == windows  # every shift occurs, and nothing else


def test_erase_rectangle_is_one_rectangle_within_the_area() -> None:
    pixels, rng = picture(), np.random.default_rng(0)
    for _ in range(200):
        erased = erase_rectangle(pixels, 0.3, FILL, rng)
        is_erased = (erased == FILL).all(axis=-1)
        rows, columns = np.flatnonzero(is_erased.any(axis=1)), np.flatnonzero(is_erased.any(axis=0))
        assert is_erased.sum() == len(rows) * len(columns) <= 0.3 * 40 * 20
        assert rows.max() - rows.min() + 1 == len(rows) and columns.max() - columns.min() + 1 == len(columns)
        np.testing.assert_array_equal(erased[~is_erased], pixels[~is_erased])


def test_jitter_colors_identity_and_gray_images() -> None:
    np.testing.assert_array_equal(jitter_colors(picture(), 0.0, np.random.default_rng(0)), picture())
    gray = np.repeat(picture()[..., :1], 3, axis=-1)
    jittered = jitter_colors(gray, 0.5, np.random.default_rng(0))
    assert (jittered != gray).any()
    assert np.ptp(jittered.astype(int), axis=-1).max() <= 1  # rounding of the gray weights


def test_mask_words_spares_special_tokens_and_padding() -> None:
    special, mask = np.array([0, 2, 3]), 4
    tokens = np.array([2, *range(10, 210), 3])
    padded = np.concatenate([tokens, np.zeros(50, dtype=tokens.dtype)])
    masked = mask_words(padded, special, mask, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(masked[:202], mask_words(tokens, special, mask, 0.3, np.random.default_rng(0)))
    np.testing.assert_array_equal(masked[202:], 0)
    assert masked[0] == 2 and masked[201] == 3
    changed = masked != padded
    assert (masked[changed] == mask).all()
    assert 34 <= changed.sum() <= 86  # 60 +- 4 standard deviations


def test_config_names_a_value_outside_0_and_1() -> None:
    with pytest.raises(ValueError, match=r"erase_probability=1\.5"):
        AugmentationConfig(erase_probability=1.5)
