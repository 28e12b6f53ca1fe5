"""Each augmentation does what its name says, leaves its input alone, and depends on its generator only."""

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
    """Random pixels that never have the color FILL."""
    return np.random.default_rng(0).integers(10, 256, (height, width, 3), dtype=np.uint8)


def test_same_generator_same_image_and_the_input_is_untouched() -> None:
    pixels = picture()
    first = augment_image(pixels, ALWAYS, FILL, np.random.default_rng(1))
    second = augment_image(pixels, ALWAYS, FILL, np.random.default_rng(1))
    other = augment_image(pixels, ALWAYS, FILL, np.random.default_rng(2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    np.testing.assert_array_equal(pixels, picture())
    assert first.shape == pixels.shape and first.dtype == np.uint8


def test_probability_zero_changes_nothing() -> None:
    np.testing.assert_array_equal(augment_image(picture(), NEVER, FILL, np.random.default_rng(0)), picture())


def test_probability_is_the_share_of_images_that_change() -> None:
    config = replace(NEVER, flip_probability=0.3)
    rng = np.random.default_rng(0)
    changed = sum((augment_image(picture(), config, FILL, rng) != picture()).any() for _ in range(2000))
    assert 520 < changed < 680  # 600 +- 4 standard deviations


def test_flip_mirrors_left_to_right() -> None:
    pixels, flipped = picture(), horizontal_flip(picture())
    for column in range(20):
        np.testing.assert_array_equal(flipped[:, column], pixels[:, 19 - column])


def test_crop_is_a_shifted_window_of_the_padded_image() -> None:
    pixels = picture()
    padded = np.stack([np.pad(pixels[..., c], ((4, 4), (2, 2)), constant_values=FILL[c]) for c in range(3)], axis=-1)
    windows = {padded[y : y + 40, x : x + 20].tobytes() for y in range(9) for x in range(5)}
    rng = np.random.default_rng(0)
    seen = {pad_and_crop(pixels, 0.1, FILL, rng).tobytes() for _ in range(600)}
    assert seen == windows  # every shift comes up, nothing else does


def test_erasing_overwrites_one_rectangle_no_larger_than_asked() -> None:
    pixels, rng = picture(), np.random.default_rng(0)
    for _ in range(200):
        erased = erase_rectangle(pixels, 0.3, FILL, rng)
        is_erased = (erased == FILL).all(axis=-1)
        rows, columns = np.flatnonzero(is_erased.any(axis=1)), np.flatnonzero(is_erased.any(axis=0))
        assert is_erased.sum() == len(rows) * len(columns) <= 0.3 * 40 * 20
        assert rows.max() - rows.min() + 1 == len(rows) and columns.max() - columns.min() + 1 == len(columns)
        np.testing.assert_array_equal(erased[~is_erased], pixels[~is_erased])


def test_jitter_without_strength_is_the_identity_and_keeps_grey_grey() -> None:
    np.testing.assert_array_equal(jitter_colors(picture(), 0.0, np.random.default_rng(0)), picture())
    grey = np.repeat(picture()[..., :1], 3, axis=-1)
    jittered = jitter_colors(grey, 0.5, np.random.default_rng(0))
    assert (jittered != grey).any()
    assert np.ptp(jittered.astype(int), axis=-1).max() <= 1  # rounding of the grey weights


def test_masking_spares_special_tokens_and_ignores_padding() -> None:
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


def test_everything_is_masked_at_probability_one() -> None:
    masked = mask_words(np.array([2, 10, 11, 3, 0]), np.array([0, 2, 3]), 4, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(masked, [2, 4, 4, 3, 0])


def test_a_value_outside_zero_and_one_is_named() -> None:
    with pytest.raises(ValueError, match=r"erase_probability=1\.5"):
        AugmentationConfig(erase_probability=1.5)
