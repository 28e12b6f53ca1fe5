"""Several data sets as one: nobody shares a number with somebody of another set."""

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
    lines = [
        {
            "file_path": entry["file_path"],
            "identity_description": "Ann",
            "clothing_description": "Red.",
            "caption": "A.",
        }
        for entry in layouts.cuhk_entries()
    ]
    descriptions = layouts.write_json_lines(folder / "d.jsonl", lines)
    layouts.write_cuhk_pedes(folder / "cuhk")
    return {
        "synthetic": load_synthetic(4, 1, 2, images_per_outfit=1, cache_dir=str(cache)),
        "cuhk": load_person_dataset("cuhk-pedes", folder / "cuhk", descriptions=descriptions, cache_dir=cache),
        "prcc": load_person_dataset("prcc", layouts.write_prcc(folder / "prcc"), cache_dir=cache),
        "gallery": load_person_dataset("folder", layouts.write_names(folder / "mine", ["a.png"]), cache_dir=cache),
    }


def test_people_cameras_and_outfits_of_different_sets_never_share_a_number(parts: dict[str, DatasetDict]) -> None:
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
                assert len(offsets) <= 1  # one offset a split, so who was the same person still is
                assert [new for new, old in zip(moved, own, strict=True) if old == -1] == [-1] * own.count(-1)
                here |= set(moved) - {-1}
            assert not here & seen
            seen |= here


def test_one_set_keeps_its_numbers_through_all_its_splits(parts: dict[str, DatasetDict]) -> None:
    joined = concatenate_person_datasets([parts["synthetic"], parts["cuhk"]], ["synthetic", "cuhk"])
    first = max(max(split["person_id"]) for split in parts["synthetic"].values()) + 1
    for name, split in parts["cuhk"].items():
        assert list(joined[name]["person_id"])[-len(split) :] == [first + person for person in split["person_id"]]
    assert list(joined["train"]["person_id"])[:8] == list(parts["synthetic"]["train"]["person_id"])


def test_rows_keep_their_images_captions_and_order(parts: dict[str, DatasetDict]) -> None:
    joined = concatenate_person_datasets([parts["synthetic"], parts["cuhk"]], ["synthetic", "cuhk"])
    assert joined["train"].num_rows == 8 + 12
    for row, own in (
        (joined["train"][0], parts["synthetic"]["train"][0]),
        (joined["train"][8], parts["cuhk"]["train"][0]),
    ):
        assert row["image"].tobytes() == own["image"].tobytes()
        assert row["captions"] == own["captions"]


def test_missing_optional_columns_are_filled(parts: dict[str, DatasetDict]) -> None:
    joined = concatenate_person_datasets([parts["synthetic"], parts["cuhk"]], ["synthetic", "cuhk"])
    assert joined["train"].column_names == [*PERSON_FEATURES, "file_path", "styled_captions"]
    assert joined["train"][0]["file_path"] is None
    assert joined["train"][0]["styled_captions"] == []
    assert joined["train"][8]["file_path"] == "cam_a/00001_0.jpg"
    assert joined["train"][8]["styled_captions"] == ["A."]


def test_one_set_alone_stays_as_it_is(parts: dict[str, DatasetDict]) -> None:
    joined = concatenate_person_datasets([parts["cuhk"]], ["cuhk"])
    assert {name: split.remove_columns("image").to_dict() for name, split in joined.items()} == {
        name: split.remove_columns("image").to_dict() for name, split in parts["cuhk"].items()
    }


def test_a_wrong_set_is_named(parts: dict[str, DatasetDict]) -> None:
    broken = DatasetDict({"train": parts["cuhk"]["train"].remove_columns("outfit_id")})
    with pytest.raises(ValueError, match="data set broken: split 'train' has no column outfit_id"):
        concatenate_person_datasets([parts["prcc"], broken], ["prcc", "broken"])
    with pytest.raises(ValueError, match="there is no data set to concatenate"):
        concatenate_person_datasets([], [])
