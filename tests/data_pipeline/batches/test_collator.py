"""Batches are pure functions of rows and seeds, and equal the output of the processor."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from data_pipeline.batches.augmentation import AugmentationConfig
from data_pipeline.batches.collator import PixelBatcher, RetrievalCollator, TrainCollator
from data_pipeline.batches.tokenizer import train_tokenizer
from data_pipeline.images import UnreadableImageError, with_image_files
from modeling_bdam.processing_bdam import BDAMProcessor, default_image_processor

CAPTIONS = [
    ["a man in a red coat", "he wears a red coat and blue jeans", "red coat man"],
    ["a young woman with a white bag", "woman, white bag"],
    ["an elderly man in grey trousers and a hat"],
    ["the woman wears a yellow dress", "yellow dress, black shoes", "a woman"],
]
NO_AUGMENTATION = AugmentationConfig(
    flip_probability=0, crop_probability=0, erase_probability=0, jitter_probability=0, word_mask_probability=0
)
DESCRIPTION_KEYS = {f"{part}_{key}" for part in ("identity", "clothing") for key in ("input_ids", "attention_mask")}


@pytest.fixture(scope="module")
def processor() -> BDAMProcessor:
    texts = [caption for captions in CAPTIONS for caption in captions] + ["a slim woman", "an old man", "blue coat"]
    return BDAMProcessor(default_image_processor(32, 16), train_tokenizer(texts * 2, vocab_size=300, max_length=16))


def rows(seeds: list[int] | None = None) -> list[dict[str, Any]]:
    """Four rows of different image sizes and modes; with `augmentation_seed` if seeds are given."""
    rng = np.random.default_rng(0)
    made = []
    for position, captions in enumerate(CAPTIONS):
        pixels = rng.integers(0, 256, (40 + 9 * position, 25 + position, 3), dtype=np.uint8)
        row = {
            "image": Image.fromarray(pixels).convert("L" if position == 2 else "RGB"),
            **{"person_id": 10 + position, "camera_id": -1, "outfit_id": -1, "captions": captions},
            "identity_description": "a slim woman" if position % 2 else "an old man",
            "clothing_description": "blue coat" if position else "red coat and jeans",
        }
        made.append(row if seeds is None else {**row, "augmentation_seed": seeds[position]})
    return made


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_train_collator_without_seeds_equals_the_processor(processor: BDAMProcessor) -> None:
    batch = TrainCollator(processor, AugmentationConfig())(rows())
    expected = processor(
        images=[row["image"] for row in rows()], text=[captions[0] for captions in CAPTIONS], return_tensors="pt"
    )
    assert batch.keys() == {"pixel_values", "input_ids", "attention_mask", "person_ids", *DESCRIPTION_KEYS}
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["person_ids"].tolist() == [10, 11, 12, 13] and batch["person_ids"].dtype == torch.int64
    for part in ("identity", "clothing"):
        texts = processor(text=[row[f"{part}_description"] for row in rows()], return_tensors="pt")
        assert torch.equal(batch[f"{part}_input_ids"], texts["input_ids"])
        assert torch.equal(batch[f"{part}_attention_mask"], texts["attention_mask"])


@pytest.mark.parametrize(
    "image_processor",
    [
        SiglipImageProcessorPil(size={"height": 24, "width": 24}, resample=Image.Resampling.BICUBIC),
        CLIPImageProcessorPil(size={"height": 48, "width": 16}, do_center_crop=False),
        CLIPImageProcessorPil(size={"height": 48, "width": 16}, do_center_crop=False, do_normalize=False),
    ],
    ids=["siglip", "clip", "not-normalized"],
)
def test_pixel_batcher_equals_the_image_processor(image_processor: Any) -> None:
    pixels = PixelBatcher(image_processor)
    images = [row["image"].convert("RGB") for row in rows()]
    expected = image_processor(images, return_tensors="pt")["pixel_values"]
    ours = pixels.normalize((pixels.resize(image) for image in images), len(images))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert ours.is_contiguous()


HOLDERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda batch: batch,
    "part of it": lambda batch: batch[1:, 0],
    "array": lambda batch: batch.numpy(),
    "shared between processes": lambda batch: batch.share_memory_(),
    "detached twice": lambda batch: batch.detach().view(-1).unflatten(0, batch.shape),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_batch_memory_with_references_is_not_reused(holder: str) -> None:
    pixels = PixelBatcher(default_image_processor(8, 4))
    white, black = np.full((8, 4, 3), 255, dtype=np.uint8), np.zeros((8, 4, 3), dtype=np.uint8)
    held = HOLDERS[holder](pixels.normalize([white] * 3, 3))
    for _ in range(3):
        pixels.normalize([black] * 3, 3)
    assert (held == 1).all()


def test_batch_memory_is_reused_within_a_thread() -> None:
    pixels = PixelBatcher(default_image_processor(8, 4))
    images = [np.zeros((8, 4, 3), dtype=np.uint8)] * 3

    def address() -> int:
        return pixels.normalize(images, 3).data_ptr()

    here = address()
    assert address() == here
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(address).result() != here
    assert pixels.normalize(images[:2], 2).shape == (2, 3, 8, 4)


def test_train_collator_row_depends_only_on_its_seed(processor: BDAMProcessor) -> None:
    collate = TrainCollator(processor, AugmentationConfig(jitter_probability=0.5))
    seeds = [2**62 + 1, 22, 33, 44]
    batch = collate(rows(seeds))
    np.random.seed(1)
    torch.manual_seed(1)
    assert_same(collate(rows(seeds)), batch)
    other = collate(rows([5, 6, 7, 8]))
    assert not torch.equal(other["pixel_values"], batch["pixel_values"])
    assert other["input_ids"].tolist() != batch["input_ids"].tolist()
    backwards = collate(rows(seeds)[::-1])
    for position in range(4):
        assert torch.equal(backwards["pixel_values"][3 - position], batch["pixel_values"][position])
        assert torch.equal(backwards["input_ids"][3 - position], batch["input_ids"][position])
        single = collate([rows(seeds)[position]])
        length = int(batch["attention_mask"][position].sum())
        assert torch.equal(single["pixel_values"][0], batch["pixel_values"][position])
        assert torch.equal(single["input_ids"][0], batch["input_ids"][position, :length])


def test_train_collator_is_equal_in_worker_processes(processor: BDAMProcessor) -> None:
    collate = TrainCollator(processor, AugmentationConfig())
    assert_same(pickle.loads(pickle.dumps(collate))(rows([1, 2, 3, 4])), collate(rows([1, 2, 3, 4])))
    data: Any = rows([1, 2, 3, 4])
    loader = DataLoader(data, batch_size=2, collate_fn=collate, num_workers=1)
    for here, there in zip([collate(data[:2]), collate(data[2:])], loader, strict=True):
        assert_same(there, here)


def test_train_collator_without_augmentation(processor: BDAMProcessor) -> None:
    plain = TrainCollator(processor, None)(rows())
    seeded = TrainCollator(processor, None)(rows([1, 2, 3, 4]))
    assert torch.equal(seeded["pixel_values"], plain["pixel_values"])
    assert processor.tokenizer.mask_token_id not in seeded["input_ids"]
    drawn = TrainCollator(processor, None)([rows([seed] * 4)[0] for seed in range(40)])["input_ids"]
    assert set(processor.tokenizer.batch_decode(drawn, skip_special_tokens=True)) == set(CAPTIONS[0])


def test_train_collator_masks_captions_not_descriptions(processor: BDAMProcessor) -> None:
    collate = TrainCollator(processor, replace(NO_AUGMENTATION, word_mask_probability=1.0))
    batch, plain = collate(rows([1, 2, 3, 4])), collate(rows())
    tokenizer = processor.tokenizer
    special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
    assert special.all() and (batch["input_ids"] == tokenizer.mask_token_id).sum() == batch["attention_mask"].sum() - 8
    for key in DESCRIPTION_KEYS:
        assert torch.equal(batch[key], plain[key])


def test_pixel_batcher_fill_is_zero_after_normalization() -> None:
    image_processor = SiglipImageProcessorPil(
        size={"height": 32, "width": 16}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    pixels = PixelBatcher(image_processor)
    filled = np.broadcast_to(pixels.fill, (32, 16, 3))
    assert pixels.normalize([filled], 1).abs().max() < 0.5 / 255 / 0.224  # half a gray level


@pytest.mark.parametrize("part", ["identity_description", "clothing_description"])
@pytest.mark.parametrize("missing", [None, "", "  "])
def test_train_collator_refuses_partly_described_batches(
    processor: BDAMProcessor, part: str, missing: str | None
) -> None:
    data = rows()
    data[1][part] = missing
    data[1]["file_path"] = "a/b.jpg"
    with pytest.raises(ValueError, match=r"3 of 4 rows .* but A row of person 11 \(a/b\.jpg\) has not"):
        TrainCollator(processor, None)(data)


@pytest.mark.parametrize("absent", [("identity_description", "clothing_description"), ("clothing_description",)])
def test_train_collator_omits_absent_descriptions(processor: BDAMProcessor, absent: tuple[str, ...]) -> None:
    data = [row | dict.fromkeys(absent) for row in rows()]
    keys = {"pixel_values", "input_ids", "attention_mask", "person_ids"}
    assert TrainCollator(processor, None)(data).keys() == keys


def drawn_captions(processor: BDAMProcessor, probability: float, row: dict[str, Any], draws: int = 200) -> list[str]:
    """The captions of one row under many seeds."""
    collate = TrainCollator(processor, replace(NO_AUGMENTATION, styled_caption_probability=probability))
    ids = collate([row | {"augmentation_seed": seed} for seed in range(draws)])["input_ids"]
    return processor.tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_train_collator_styled_caption_probability(processor: BDAMProcessor) -> None:
    row = rows()[0] | {"styled_captions": ["young woman", " ", "old man"]}
    for probability, low, high in ((0.0, 0, 0), (0.3, 34, 86), (1.0, 200, 200)):  # 60 +- 4 standard deviations
        drawn = drawn_captions(processor, probability, row)
        styled = [caption for caption in drawn if caption in ("young woman", "old man")]
        assert low <= len(styled) <= high
        assert set(drawn) - set(styled) == (set(CAPTIONS[0]) if probability < 1 else set())
        assert not styled or len(set(styled)) == 2
    assert TrainCollator(processor, None)([row])["input_ids"].tolist() == processor(text=[CAPTIONS[0][0]])["input_ids"]


@pytest.mark.parametrize("styled", [None, [], ["  "]])
def test_train_collator_ignores_empty_styled_captions(processor: BDAMProcessor, styled: list[str] | None) -> None:
    plain = drawn_captions(processor, 0.5, rows()[0], draws=20)
    assert drawn_captions(processor, 0.5, rows()[0] | {"styled_captions": styled}, draws=20) == plain


def test_train_collator_of_one_text_draws_joined_descriptions(processor: BDAMProcessor) -> None:
    collate = TrainCollator(processor, NO_AUGMENTATION, one_text=True)
    batch = collate([rows()[0] | {"augmentation_seed": seed} for seed in range(150)])
    assert not [name for name in batch if name.startswith(("identity_", "clothing_"))]
    drawn = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert set(drawn) == {*CAPTIONS[0], "an old man red coat and jeans"}
    assert 150 / (len(CAPTIONS[0]) + 1) * 0.6 < drawn.count("an old man red coat and jeans") < 100


def test_train_collator_falls_back_to_other_texts(processor: BDAMProcessor) -> None:
    row = rows()[0] | {"captions": []}
    assert set(drawn_captions(processor, 0.0, row, draws=5)) == {"an old man red coat and jeans"}
    assert set(drawn_captions(processor, 0.0, row | {"styled_captions": ["old man"]}, draws=5)) == {"old man"}
    row |= {"captions": [" "], "identity_description": None, "clothing_description": None}
    with pytest.raises(ValueError, match="person 10 has neither a caption nor a description"):
        TrainCollator(processor, None)([row])


def test_train_collator_needs_a_mask_token_to_mask(processor: BDAMProcessor) -> None:
    tokenizer = pickle.loads(pickle.dumps(processor.tokenizer))
    tokenizer.mask_token = None
    without_mask = BDAMProcessor(processor.image_processor, tokenizer)
    TrainCollator(without_mask, NO_AUGMENTATION)
    with pytest.raises(ValueError, match="no mask token: set word_mask_probability to 0"):
        TrainCollator(without_mask, AugmentationConfig())


def test_pixel_batcher_refuses_a_cropping_processor() -> None:
    with pytest.raises(ValueError, match="fixed height and width"):
        PixelBatcher(CLIPImageProcessorPil())
    with pytest.raises(ValueError, match="do_center_crop=False"):
        PixelBatcher(CLIPImageProcessorPil(size={"height": 48, "width": 16}))


def test_retrieval_collator_images_captions_integers(processor: BDAMProcessor) -> None:
    collate = pickle.loads(pickle.dumps(RetrievalCollator(processor)))
    images = [row["image"] for row in rows()]
    gallery = collate([{"image": image, "person_ids": 5, "index": i, "note": "x"} for i, image in enumerate(images)])
    assert gallery.keys() == {"pixel_values", "person_ids", "index"}
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(gallery["pixel_values"], expected, rtol=0, atol=1e-6)
    queries = collate([{"caption": "a man", "outfit_ids": 3}, {"caption": "a woman in red", "outfit_ids": -1}])
    assert queries.keys() == {"input_ids", "attention_mask", "outfit_ids"}
    expected_text = processor(text=["a man", "a woman in red"], return_tensors="pt")
    assert torch.equal(queries["input_ids"], expected_text["input_ids"])
    assert queries["outfit_ids"].tolist() == [3, -1]


def test_retrieval_collator_refuses_partial_fields(processor: BDAMProcessor) -> None:
    with pytest.raises(ValueError, match="Only 1 of 2 rows of the batch have the field 'index'"):
        RetrievalCollator(processor)([{"caption": "a man", "index": 0}, {"caption": "a woman"}])


def test_collators_accept_undecoded_files(processor: BDAMProcessor, tmp_path: Path) -> None:
    data = rows([1, 2, 3, 4])
    for position, row in enumerate(data):
        row["image"].save(tmp_path / f"{position}.png")
    files = [row | {"image": str(tmp_path / f"{position}.png")} for position, row in enumerate(data)]
    decoded = Dataset.from_list(files).cast_column("image", ImageFeature())
    as_files = with_image_files(decoded)
    assert as_files[0]["image"] == {"bytes": None, "path": str(tmp_path / "0.png")}
    train, retrieval = TrainCollator(processor, AugmentationConfig()), RetrievalCollator(processor)
    for split in (decoded, as_files):
        assert_same(train([split[position] for position in range(4)]), train(data))
        assert_same(retrieval([{"image": split[0]["image"]}]), retrieval([{"image": data[0]["image"]}]))


def test_collators_name_an_unreadable_file(processor: BDAMProcessor, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"")
    broken = {"path": str(tmp_path / "cut.jpg"), "bytes": None}
    data = [*rows()[:3], rows()[3] | {"image": broken}]
    for collate in (TrainCollator(processor, None), RetrievalCollator(processor)):
        with pytest.raises(UnreadableImageError, match=r"cut\.jpg: zero bytes$"):
            collate(data)
