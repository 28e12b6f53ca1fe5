"""Reads and writes data sets as Parquet files, images included: a local folder or a data set of the Hub."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, load_dataset
from datasets.exceptions import DatasetsError
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from modeling_bdam.files import atomic_folder

from ..schema import PERSON_FEATURES
from .text_files import first_line

ROWS_IN_A_GROUP = 100  # rows that a reader decodes to show one
SHARD_BYTES = 400_000_000


def load_parquet(where: str, cache_dir: str | None = None) -> DatasetDict:
    """Loads the splits of a Parquet folder or of a data set of the Hub, with the types of `PERSON_FEATURES`.

    Args:
        where: a folder, or OWNER/NAME.
        cache_dir: by default the cache of `datasets`.

    Raises:
        ValueError: a file is damaged, or a column is missing.
        OSError: there is no such set.
    """
    try:
        loaded = load_dataset(where, cache_dir=cache_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: there is no such data set: {first_line(error)}") from None
    except (DatasetsError, pa.ArrowException) as error:
        raise ValueError(f"{where}: it cannot be read: {first_line(error.__cause__ or error)}") from None
    splits = DatasetDict()
    for name, split in loaded.items():
        missing = [column for column in PERSON_FEATURES if column not in split.column_names]
        if missing:
            raise ValueError(
                f"{where}, split {name}: no column {', '.join(missing)}; the columns are "
                f"{', '.join(split.column_names)}. Write the set with `bdam data convert`"
            )
        # A writer may have chosen other types, such as large strings
        features = Features({column: PERSON_FEATURES.get(column, kind) for column, kind in split.features.items()})
        splits[name] = split if features == split.features else split.cast(features)
    return splits


def save_parquet(
    splits: DatasetDict, folder: str | os.PathLike[str], card: str | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes splits with their images to a new folder, for `load_person_dataset("parquet", folder)` and `load_dataset`.

    Image files are stored byte for byte, in `data/SPLIT-00000-of-00002.parquet` and so on, whereas
    `Dataset.to_parquet` stores only the path of an image file. The write is atomic.

    Args:
        folder: must not exist, or be empty.
        card: the text of its README.md, see `data_pipeline.hub.dataset_card`; none by default.
        shard_bytes: a new file is started after this size.

    Raises:
        FileExistsError: the folder is not empty.
        OSError: an image cannot be read, or the folder cannot be written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: the folder is not empty; name a new one")
    with atomic_folder(target) as draft:
        (draft / "data").mkdir()
        for name, split in splits.items():
            _write_split(split, draft / "data", str(name), shard_bytes)
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")


def _write_split(split: Dataset, folder: Path, name: str, shard_bytes: int) -> None:
    """Writes `name`-00000-of-0000N.parquet files; N is known only at the end, so they are renamed then."""
    rows = split.with_format("arrow")
    shards: list[Path] = []
    written = 0
    writer: pq.ParquetWriter | None = None
    with tqdm(total=len(rows), desc=f"writing {name}", unit=" images", disable=None) as bar:
        for first in range(0, len(rows), ROWS_IN_A_GROUP):
            table = embed_table_storage(rows[first : first + ROWS_IN_A_GROUP])
            if writer is None:
                shards.append(folder / f"{name}.{len(shards)}")
                writer = pq.ParquetWriter(shards[-1], table.schema)
            writer.write_table(table)
            written += table.nbytes
            bar.update(len(table))
            if written >= shard_bytes:
                writer.close()
                writer, written = None, 0
    if writer is not None:
        writer.close()
    for number, shard in enumerate(shards):
        shard.replace(folder / f"{name}-{number:05d}-of-{len(shards):05d}.parquet")
