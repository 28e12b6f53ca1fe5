"""A set as Parquet files, images included: a folder that this project wrote, or a data set of the Hub."""

import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, load_dataset
from datasets.exceptions import DatasetsError
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from ..schema import PERSON_FEATURES
from .text_files import first_line

ROWS_IN_A_GROUP = 100  # what a reader must decode to show one row
SHARD_BYTES = 400_000_000


def load_parquet(where: str, cache_dir: str | None = None) -> DatasetDict:
    """The splits of a Parquet folder or of a data set of the Hub, with the types of `PERSON_FEATURES`.

    Args:
        where: a folder, or OWNER/NAME.
        cache_dir: where `datasets` unpacks it; its own cache by default.

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
                f"{where}, split {name}: no column {', '.join(missing)}; it has {', '.join(split.column_names)}. "
                "A set that this project wrote has them all"
            )
        splits[name] = _cast(split)
    return splits


def save_parquet(
    splits: DatasetDict, folder: str | os.PathLike[str], card: str | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes splits with their images to a new folder, for `load_person_dataset("parquet", folder)` and `load_dataset`.

    Image files are stored byte for byte, in `data/SPLIT-00000-of-00002.parquet` and so on. (`Dataset.to_parquet` stores
    the path of an image file alone.) The folder appears complete or not at all.

    Args:
        folder: must not exist, or be empty.
        card: the text of its README.md, see `data_pipeline.hub.dataset_card`; none by default.
        shard_bytes: a file is closed when it holds more than this.

    Raises:
        FileExistsError: the folder has something in it.
        OSError: an image cannot be read, or the folder not written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: there is something already; name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        (draft / "data").mkdir()
        for name, split in splits.items():
            _write_split(split, draft / "data", str(name), shard_bytes)
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")
        draft.chmod(0o755)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_split(split: Dataset, folder: Path, name: str, shard_bytes: int) -> None:
    rows = split.with_format("arrow")
    shards: list[Path] = []
    written = 0
    writer: pq.ParquetWriter | None = None
    bar = tqdm(total=len(rows), desc=f"writing {name}", unit=" images")
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
    bar.close()
    if writer is not None:
        writer.close()
    for number, shard in enumerate(shards):
        shard.replace(folder / f"{name}-{number:05d}-of-{len(shards):05d}.parquet")


def _cast(split: Dataset) -> Dataset:
    """The split with the project's types where a writer chose others, such as large strings."""
    features = Features({column: PERSON_FEATURES.get(column, kind) for column, kind in split.features.items()})
    return split if features == split.features else split.cast(features)
