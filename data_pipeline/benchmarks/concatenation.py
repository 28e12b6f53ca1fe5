"""Several data sets as one, for training on all of them at once."""

from collections.abc import Sequence

import numpy as np
from datasets import DatasetDict, Features, concatenate_datasets

from ..schema import check_splits
from .benchmark import UNKNOWN
from .columns import with_column
from .person_table import TABLE_FEATURES

ID_COLUMNS = ("person_id", "camera_id", "outfit_id")


def concatenate_person_datasets(parts: Sequence[DatasetDict], names: Sequence[str]) -> DatasetDict:
    """Joins data sets split by split; people, cameras and outfits of different sets never share a number.

    Each set's numbers are moved behind those of the sets before it; -1, unknown, stays. The first set keeps its own
    numbers. Columns beside `TABLE_FEATURES` are dropped; a set without `file_path` or `styled_captions` gets None or
    no captions where another has them.

    Args:
        parts: at least one; splits that only some sets have are of these alone.
        names: of the sets, for errors.

    Raises:
        ValueError: no set, or one that lacks a column of `PERSON_FEATURES` or has a person in two splits.
    """
    if not parts:
        raise ValueError("there is no data set to concatenate")
    for name, part in zip(names, parts, strict=True):
        try:
            check_splits(part)
        except ValueError as error:
            raise ValueError(f"data set {name}: {error}") from None
    present = {column for part in parts for split in part.values() for column in split.column_names}
    features = Features({column: kind for column, kind in TABLE_FEATURES.items() if column in present})
    joined: dict[str, list] = {}
    offsets = dict.fromkeys(ID_COLUMNS, 0)
    for part in parts:
        largest = dict.fromkeys(ID_COLUMNS, UNKNOWN)
        for split_name, split in part.items():
            for column in ID_COLUMNS:
                ids = np.array(split.with_format(None)[column][:], dtype=np.int64)
                largest[column] = max(largest[column], int(ids.max(initial=UNKNOWN)))
                if offsets[column]:
                    moved = np.where(ids == UNKNOWN, UNKNOWN, ids + offsets[column])
                    split = with_column(split, column, moved.tolist(), features[column])
            for column in features.keys() - set(split.column_names):
                nothing: list[str] | None = None if column == "file_path" else []
                split = with_column(split, column, [nothing] * len(split), features[column])
            split = split.select_columns(list(features))
            if split.features != features:  # a cast writes the images anew
                split = split.cast(features)
            joined.setdefault(str(split_name), []).append(split)
        offsets = {column: offset + largest[column] + 1 for column, offset in offsets.items()}
    return DatasetDict({name: concatenate_datasets(splits) for name, splits in joined.items()})
