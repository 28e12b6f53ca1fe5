"""Concatenates data sets: people, cameras and outfits of different sets have different numbers."""

import pytest
from datasets import DatasetDict

from data_pipeline import (
    PERSON_FEATURES,
    check_splits,
    concatenate_person_datasets,
    load_person_dataset,
    load_synthetic,
)

from . import layouts


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DatasetDict]:
    folder = tmp_path_factory.mktemp("sets")
    cache = folder / "cache"
    descriptions = layouts.write_descriptions(folder / "d.jsonl", caption="A.")
    layouts.write_cuhk_pedes(folder / "cuhk")
    return {
        "synthetic": load_synthetic(4, 1, 2, images_per_outfit=1, cache_dir=str(cache)),
        "cuhk": load_person_dataset("cuhk-pedes", folder / "cuhk", descriptions=descriptions, cache_dir=cache),
        "prcc": load_person_dataset("prcc", layouts.write_prcc(folder / "prcc"), cache_dir=cache),
        "gallery": load_person_dataset("folder", layouts.write_names(folder / "mine", ["a.png"]), cache_dir=cache),
    }


@pytest.fixture(scope="module")
def joined(parts: dict[str, DatasetDict]) -> DatasetDict:
    return concatenate_person_datasets([parts["synthetic"], parts["cuhk"]], ["synthetic", "cuhk"])


def test_concatenate_never_shares_a_number(parts: dict[str, DatasetDict]) -> None:
    joined = concatenate_person_datasets(list(parts.values()), list(parts))
    check_splits(joined)
    for column in ("person_id", "camera_id", "outfit_id"):
        seen: set[int] = set()
        rows = {name: 0 for name in joined}
        for part in parts.values():
            here: set[int] = set()
            for name, split in part.items():
                moved = list(joined[name][column])[rows[name] : rows[name] + len(split)]
                rows[name] += len(split)
                own = list(split[column])
                offsets = {new - old for new, old in zip(moved, own, strict=True) if old != -1}
                assert len(offsets) <= 1  # one offset per split, so equal people stay equal
                assert [new for new, old in zip(moved, own, strict=True) if old == -1] == [-1] * own.count(-1)
                here |= set(moved) - {-1}
            assert not here & seen
            seen |= here


def test_concatenate_keeps_rows_and_fills_columns(parts: dict[str, DatasetDict], joined: DatasetDict) -> None:
    # One offset for all splits of a set
    first = max(max(split["person_id"]) for split in parts["synthetic"].values()) + 1
    for name, split in parts["cuhk"].items():
        assert list(joined[name]["person_id"])[-len(split) :] == [first + person for person in split["person_id"]]
    assert list(joined["train"]["person_id"])[:8] == list(parts["synthetic"]["train"]["person_id"])
    # Rows in order
    assert joined["train"].num_rows == 8 + 12
    assert joined["train"].column_names == [*PERSON_FEATURES, "file_path", "styled_captions"]
    for row, part in ((joined["train"][0], "synthetic"), (joined["train"][8], "cuhk")):
        own = parts[part]["train"][0]
        assert row["image"].tobytes() == own["image"].tobytes()
        assert row["captions"] == own["captions"]
    # Optional columns
    assert joined["train"]["file_path"][0] is None and joined["train"]["styled_captions"][0] == []
    assert joined["train"]["file_path"][8] == "cam_a/00001_0.jpg" and joined["train"]["styled_captions"][8] == ["A."]


def test_concatenate_one_set_is_the_identity(parts: dict[str, DatasetDict]) -> None:
    joined = concatenate_person_datasets([parts["cuhk"]], ["cuhk"])
    assert {name: split.remove_columns("image").to_dict() for name, split in joined.items()} == {
        name: split.remove_columns("image").to_dict() for name, split in parts["cuhk"].items()
    }


def test_concatenate_names_an_invalid_set(parts: dict[str, DatasetDict]) -> None:
    broken = DatasetDict({"train": parts["cuhk"]["train"].remove_columns("outfit_id")})
    with pytest.raises(ValueError, match="data set broken: split 'train' has no column outfit_id"):
        concatenate_person_datasets([parts["prcc"], broken], ["prcc", "broken"])
    with pytest.raises(ValueError, match="there is no data set to concatenate"):
        concatenate_person_datasets([], [])
