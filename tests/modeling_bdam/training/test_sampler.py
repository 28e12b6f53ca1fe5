"""Blocks of P people x K images, determined by seed and epoch, equal for any number of processes."""

import doctest
import importlib
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler

from modeling_bdam.training.sampler import CaptionPairs, IdentityBalancedSampler, KeyedDataset

# 30 people with 1 to 9 images each, rows in random order
PERSON_IDS = np.random.default_rng(0).permutation(np.repeat(np.arange(30) * 7 + 3, np.arange(30) % 9 + 1)).tolist()


def blocks(sampler: IdentityBalancedSampler, size: int) -> list[list[tuple[int, int, int]]]:
    keys = list(sampler)
    assert len(keys) == len(sampler) and len(keys) % size == 0
    return [keys[start : start + size] for start in range(0, len(keys), size)]


@pytest.mark.parametrize("images_per_person", [1, 2, 4])
def test_sampler_gives_two_processes_the_batches_of_one(images_per_person: int) -> None:
    one = blocks(IdentityBalancedSampler(PERSON_IDS, images_per_person, batch_size=16, seed=5), 16)
    shards = []
    for process in range(2):
        sampler = IdentityBalancedSampler(PERSON_IDS, images_per_person, batch_size=8, seed=5, num_processes=2)
        batches: Any = BatchSampler(cast(Any, sampler), 8, drop_last=True)  # annotated for plain int keys
        shards.append(list(BatchSamplerShard(batches, 2, process)))
    assert [first + second for first, second in zip(*shards, strict=True)] == one


@pytest.mark.parametrize("images_per_person", [2, 3])
def test_sampler_block_has_k_images_of_distinct_people(images_per_person: int) -> None:
    size = 4 * images_per_person
    for block in blocks(IdentityBalancedSampler(PERSON_IDS, images_per_person, size, seed=0), size):
        people = np.array([PERSON_IDS[row] for row, *_ in block]).reshape(4, images_per_person)
        assert (people == people[:, :1]).all()
        assert len(set(people[:, 0])) == 4


def test_sampler_repeats_images_only_below_k() -> None:
    images_of = Counter(PERSON_IDS)
    for block in blocks(IdentityBalancedSampler(PERSON_IDS, 4, 4, seed=0), 4):
        distinct = len({row for row, *_ in block})
        assert distinct == min(4, images_of[PERSON_IDS[block[0][0]]])


def test_sampler_epoch_covers_every_image() -> None:
    seen = Counter(row for row, *_ in IdentityBalancedSampler(PERSON_IDS, 2, 2, seed=0))  # no incomplete block
    assert set(seen) == set(range(len(PERSON_IDS)))
    drawn = Counter(PERSON_IDS[row] for row in seen.elements())
    assert all(drawn[person] == count + count % 2 for person, count in Counter(PERSON_IDS).items())


def test_sampler_with_k_1_is_plain_shuffle() -> None:
    rows = [row for row, *_ in IdentityBalancedSampler(PERSON_IDS, 1, batch_size=1, seed=0)]
    assert rows != sorted(rows)
    assert sorted(rows) == list(range(len(PERSON_IDS)))


def test_sampler_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int, int]]:
        sampler = IdentityBalancedSampler(PERSON_IDS, 2, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    orders = [order(0, 0), order(0, 1), order(1, 0), order(1, 1)]
    assert len({tuple(row for row, _, _ in keys) for keys in orders}) == 4
    augmentation_seeds = [seed for keys in orders for *_, seed in keys]
    assert len(set(augmentation_seeds)) == len(augmentation_seeds)


def test_sampler_pairs_single_image_with_itself() -> None:
    for block in blocks(IdentityBalancedSampler(list(range(12)), 2, 8, seed=0), 8):
        rows = [row for row, *_ in block]
        assert rows[0::2] == rows[1::2] and len(set(rows)) == 4


def test_sampler_covers_person_with_most_images() -> None:
    person_ids = [0] * 40 + [1, 1, 2, 2]
    seen = [row for row, *_ in IdentityBalancedSampler(person_ids, 2, 4, seed=0)]
    assert sorted(seen) == list(range(44))


def test_sampler_refuses_unsuitable_batch_size() -> None:
    with pytest.raises(ValueError, match=r"\(7\) must be a multiple of images_per_person \(2\)"):
        IdentityBalancedSampler(PERSON_IDS, 2, batch_size=7, seed=0)
    with pytest.raises(ValueError, match="lower the batch size"):
        IdentityBalancedSampler([1, 1, 2, 2], 2, batch_size=4, seed=0, num_processes=2)
    with pytest.raises(ValueError, match="leaves out every row"):
        IdentityBalancedSampler(PERSON_IDS, 1, 4, seed=0).use_texts(np.full(len(PERSON_IDS), -1))


def test_keyed_dataset_adds_augmentation_seed() -> None:
    rows = [{"person_id": 4}, {"person_id": 5}]
    dataset = KeyedDataset(rows)
    assert dataset[1, 1, 99] == {"person_id": 5, "augmentation_seed": 99}
    assert dataset[1] == {"person_id": 5} == rows[1]
    assert len(dataset) == 2


def test_keyed_dataset_combines_image_and_texts_of_two_rows() -> None:
    rows = [{"image": name, "captions": [f"of {name}"], "clothing_description": f"{name}'s"} for name in "ab"]
    found = KeyedDataset(rows)[0, 1, 7]
    assert found == {"image": "a", "captions": ["of b"], "clothing_description": "b's", "augmentation_seed": 7}


@pytest.mark.parametrize("images_per_person", [1, 2])
def test_use_texts_keeps_length_of_epoch(images_per_person: int) -> None:
    sampler = IdentityBalancedSampler(PERSON_IDS, images_per_person, 4, seed=0)
    length = len(sampler)
    text_rows = np.arange(len(PERSON_IDS))
    text_rows[np.arange(len(PERSON_IDS)) % 3 != 0] = -1
    text_rows[3] = 2
    sampler.use_texts(text_rows)
    keys = list(sampler)
    assert len(keys) == len(sampler) == length
    assert all(text_row == text_rows[row] >= 0 for row, text_row, _ in keys)
    assert len({row for row, *_ in keys}) >= (text_rows >= 0).sum() - 4  # all, except a last block that is not full
    sampler.use_texts(None)
    assert list(sampler) == list(IdentityBalancedSampler(PERSON_IDS, images_per_person, 4, seed=0))


def test_keyed_dataset_adds_weight_of_pair() -> None:
    dataset = KeyedDataset([{"person_id": 4}, {"person_id": 5}])
    dataset.pair_weights = np.array([True, False])
    assert [dataset[number, number, 7]["pair_weight"] for number in (0, 1)] == [1.0, 0.0]


def test_caption_pairs_have_one_caption_each() -> None:
    captions = [["a", "b"], [], ["c"]]
    rows = Dataset.from_dict({"captions": captions, "person_id": [4, 5, 6], "identity_description": ["x", "y", "z"]})
    pairs = CaptionPairs(rows)
    assert len(pairs) == 4
    assert [pairs[number]["captions"] for number in range(4)] == pairs["captions"] == [["a"], ["b"], [], ["c"]]
    assert [pairs[number]["person_id"] for number in range(4)] == pairs["person_id"] == [4, 4, 5, 6]
    assert pairs.column_names == rows.column_names
    assert pairs.select(np.array([1, 3]))["captions"] == [["b"], ["c"]]
    sampler = IdentityBalancedSampler(pairs["person_id"], 1, 2, seed=0)
    shown = [KeyedDataset(pairs)[key]["captions"] for key in sampler]
    assert sorted(shown) == [[], ["a"], ["b"], ["c"]]  # an epoch shows each caption once


def test_sampler_examples_run() -> None:
    result = doctest.testmod(importlib.import_module("modeling_bdam.training.sampler"))
    assert result.attempted > 0 and result.failed == 0
