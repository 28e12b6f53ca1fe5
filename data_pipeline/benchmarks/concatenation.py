"""Concatenates data sets, for training on all of them at once."""

from collections.abc import Sequence

import numpy as np
from datasets import DatasetDict, Features, concatenate_datasets

from ..schema import ATTRIBUTE_FEATURES, check_splits
from .benchmark import UNKNOWN
from .columns import with_column
from .person_table import TABLE_FEATURES

ID_COLUMNS = ("person_id", "camera_id", "outfit_id")


def concatenate_person_datasets(parts: Sequence[DatasetDict], names: Sequence[str]) -> DatasetDict:
    """Concatenates data sets split by split; people, cameras and outfits of different sets get different numbers.

    Each set's numbers are offset past those of the sets before it; -1 (unknown) stays. The first set keeps its own
    numbers. Columns outside `TABLE_FEATURES` and `ATTRIBUTE_FEATURES` are dropped; missing
    `styled_captions` become an empty list, and other missing values None.

    Args:
        parts: at least one data set; they may have different splits.
        names: names of the sets, for error messages.

    Raises:
        ValueError: no set, a set without a column of `PERSON_FEATURES`, or a person in two splits.
    """
    if not parts:
        raise ValueError("there is no data set to concatenate")
    for name, part in zip(names, parts, strict=True):
        try:
            check_splits(part)
        except ValueError as error:
            raise ValueError(f"data set {name}: {error}") from None
    present = {column for part in parts for split in part.values() for column in split.column_names}
    known = {**TABLE_FEATURES, **ATTRIBUTE_FEATURES}
    features = Features({column: kind for column, kind in known.items() if column in present})
    joined: dict[str, list] = {}
    offsets = dict.fromkeys(ID_COLUMNS, 0)
    for part in parts:
        largest = dict.fromkeys(ID_COLUMNS, UNKNOWN)
        for split_name, split in part.items():
            # Offset the numbers
            for column in ID_COLUMNS:
                ids = np.array(split.with_format(None)[column][:], dtype=np.int64)
                largest[column] = max(largest[column], int(ids.max(initial=UNKNOWN)))
                if offsets[column]:
                    moved = np.where(ids == UNKNOWN, UNKNOWN, ids + offsets[column])
                    split = with_column(split, column, moved.tolist(), features[column])
            # Give every set the same columns and types
            for column in features.keys() - set(split.column_names):
                empty: list[str] | None = [] if column == "styled_captions" else None
                split = with_column(split, column, [empty] * len(split), features[column])
            split = split.select_columns(list(features))
            if split.features != features:  # only then: a cast writes the images again
                split = split.cast(features)
            joined.setdefault(str(split_name), []).append(split)
        offsets = {column: offset + largest[column] + 1 for column, offset in offsets.items()}
    return DatasetDict({name: concatenate_datasets(splits) for name, splits in joined.items()})
