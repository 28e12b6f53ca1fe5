"""Any data set, from the folder that a user already has, as one table layout."""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from ..schema import check_splits
from ..synthetic.dataset import load_synthetic
from .benchmark import UNKNOWN_LICENSE, Benchmark, Options, Source
from .celeb_reid import CELEB_REID, CELEB_REID_LIGHT
from .columns import with_column
from .cuhk_pedes import CUHK_PEDES
from .folder import FOLDER
from .icfg_pedes import ICFG_PEDES
from .image_listing import list_images
from .ltcc import LTCC
from .market_1501 import MARKET_1501
from .msmt17 import MSMT17
from .parquet import load_parquet
from .people_splits import hold_out
from .person_table import TABLE_FEATURES, build_tables
from .prcc import PRCC
from .rstpreid import RSTPREID
from .side_files import DESCRIPTION_KEYS, join
from .table_cache import cache_folder, file_digest, read_cached, write_cached
from .text_files import first_of
from .ufine6926 import UFINE6926

PathLike = str | os.PathLike[str]
logger = logging.getLogger(__name__)

BENCHMARKS: dict[str, Benchmark] = {
    "cuhk-pedes": CUHK_PEDES,
    "icfg-pedes": ICFG_PEDES,
    "rstpreid": RSTPREID,
    "ufine6926": UFINE6926,
    "prcc": PRCC,
    "ltcc": LTCC,
    "celeb-reid": CELEB_REID,
    "celeb-reid-light": CELEB_REID_LIGHT,
    "market-1501": MARKET_1501,
    "msmt17": MSMT17,
    "folder": FOLDER,
}
"""The sets that `load_person_dataset` reads from a folder of images, by name."""
SYNTHETIC = "synthetic"


def load_person_dataset(
    name: str,
    data_dir: PathLike | None = None,
    *,
    descriptions: PathLike | None = None,
    outfits: PathLike | None = None,
    split_file: PathLike | None = None,
    val_people: int | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    check_images: bool = True,
    cache_dir: PathLike | None = None,
    synthetic: Mapping[str, Any] | None = None,
) -> DatasetDict:
    """Loads a person data set from the disk or the Hub into the one table layout of this project.

    Images stay where they are and are decoded when a row is read. What annotation files say is kept in the cache, by
    their content, and is there at once the next time. What the user should know is logged as warnings, every time.

    Args:
        name: one of `BENCHMARKS`; `synthetic` for the pedestrians that this package draws; `parquet` for a folder that
            `save_parquet` wrote; `hub:OWNER/NAME` for a data set of the Hub in this layout.
        data_dir: the folder that the set was unpacked to, or its parent; none for `hub:`.
        descriptions: a JSON-lines file, joined by `file_path`, see `read_descriptions`. Images without a line keep
            what the set itself says, mostly None. With captions in it there is a column `styled_captions`.
        outfits: a JSON file `{file_path: outfit}`, in the place of the set's own outfits, see `read_outfits`.
        split_file: a JSON file that says who is in which split, in the place of the annotation, see `read_split_file`.
        val_people: how many people of train to hold out where a set has no validation split; 5 % by default.
        seed: of the people held out or, in a `folder` without splits, divided.
        skip_unreadable: images that are missing or cannot be decoded are left out and listed, instead of an error. Not
            for `parquet` and `hub:`.
        check_images: the first load decodes every image once, so that a broken one is found then and not in the midst
            of a training. False leaves that to the reader; with `skip_unreadable` they are decoded in any case.
        cache_dir: the cache of `datasets` by default.
        synthetic: arguments of `load_synthetic`, for the set `synthetic` only.

    Returns:
        The splits, of `train`, `validation` and `test` those that the set has: the columns of `PERSON_FEATURES`, then
        `file_path`, and perhaps `styled_captions`. `test` holds queries and gallery. `person_id` is the set's own
        number, unless test people would have the same numbers as others in train. No person is in two splits.

    Raises:
        ValueError: an unknown name, or an annotation that cannot be used; the message names file and entry.
        FileNotFoundError: a folder, a file or images are missing; the message says where the set is given out.
        OSError: images cannot be decoded; the message names some of them.
    """
    kind = name.lower().replace("_", "-")
    if kind == SYNTHETIC:
        given = {"data_dir": data_dir, "descriptions": descriptions, "outfits": outfits, "split_file": split_file}
        if unused := [option for option, value in given.items() if value is not None]:
            raise ValueError(f"synthetic: the set is drawn with its own descriptions and outfits; drop {unused[0]}")
        return load_synthetic(**(synthetic or {}), cache_dir=None if cache_dir is None else str(cache_dir))
    options = Options(
        descriptions=None if descriptions is None else Path(descriptions),
        outfits=None if outfits is None else Path(outfits),
        split_file=None if split_file is None else Path(split_file),
        val_people=val_people,
        seed=seed,
        skip_unreadable=skip_unreadable,
        check_images=check_images,
    )
    if kind == "parquet" or kind.startswith("hub:"):
        splits, notes = _load_tables(name, data_dir, options, cache_dir)
    elif kind in BENCHMARKS:
        splits, notes = _load_images(kind, data_dir, options, cache_dir)
    else:
        names = [*BENCHMARKS, SYNTHETIC, "parquet", "hub:OWNER/NAME"]
        close = difflib.get_close_matches(kind, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no data set is called {name!r}: {hint}There are {', '.join(names)}")
    for note in notes:
        logger.warning(note)
    return splits


def license_of(name: str) -> str:
    """The license terms of a data set in words, by its `--dataset_name`; for the cards."""
    if name == SYNTHETIC:
        return "drawn by this package, Apache-2.0; shows no real person"
    return BENCHMARKS[name].license if name in BENCHMARKS else UNKNOWN_LICENSE


def _load_images(
    kind: str, data_dir: PathLike | None, options: Options, cache_dir: PathLike | None
) -> tuple[DatasetDict, list[str]]:
    """A benchmark's splits, and the notes about them, from the cache or else from its files."""
    benchmark = BENCHMARKS[kind]
    source = _locate(benchmark, data_dir, options)
    files = {
        "annotation": source.annotation,
        "descriptions": options.descriptions,
        "outfits": options.outfits,
        "split_file": options.split_file,
    }
    made_of = {
        "folder": str(source.folder.resolve()),
        "images": source.images.fingerprint(with_contents=options.skip_unreadable),
        "files": {what: [str(file), file_digest(file)] for what, file in files.items() if file is not None},
        "options": [options.val_people, options.seed, options.skip_unreadable, options.check_images],
    }
    folder = cache_folder(cache_dir, kind, made_of)
    cached = read_cached(folder)
    if cached is None:
        write_cached(folder, *build_tables(benchmark, source, folder))
        cached = read_cached(folder)
        assert cached is not None
    return cached


def _locate(benchmark: Benchmark, data_dir: PathLike | None, options: Options) -> Source:
    """Finds a benchmark's annotation file and images.

    Raises:
        ValueError: no folder is given, or there are several candidates for the annotation file.
        FileNotFoundError: something is not there.
    """
    how = benchmark.how_to_get()
    if data_dir is None:
        raise ValueError(f"{benchmark.title}: name the folder that it lies in (--data_dir, data_dir=). {how}")
    top = Path(data_dir)
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: there is no such folder. {how}")
    for folder in (top, *(top / inner for inner in benchmark.top_folders)):
        annotation = _find_annotation(folder, benchmark.annotations)
        if annotation is not None or any((folder / marker).is_dir() for marker in benchmark.markers):
            break
    else:
        wanted = " or ".join(benchmark.annotations or [f"{marker}/" for marker in benchmark.markers])
        there = sorted(entry.name + "/" * entry.is_dir() for entry in top.iterdir())
        raise FileNotFoundError(f"{top}: there is no {wanted} in it, but {first_of(there, 6) or 'nothing'}. {how}")
    root = next((folder / inner for inner in benchmark.image_folders if (folder / inner).is_dir()), None)
    if root is None:
        raise FileNotFoundError(f"{folder}: there is no folder {' or '.join(benchmark.image_folders)} in it. {how}")
    return Source(folder, annotation, list_images(root), options)


def _find_annotation(folder: Path, spellings: Sequence[str]) -> Path | None:
    for spelling in spellings:
        found = sorted(folder.glob(spelling))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ValueError(f"{folder}: which is the annotation file: {names}? Call it {spellings[0]}")
        if found:
            return found[0]
    return None


def _load_tables(
    name: str, data_dir: PathLike | None, options: Options, cache_dir: PathLike | None
) -> tuple[DatasetDict, list[str]]:
    """The splits of a Parquet folder or a data set of the Hub, and the notes about them."""
    if name.lower().startswith("hub:"):
        where = name[len("hub:") :]
    elif data_dir is None:
        raise ValueError("parquet: name the folder of the Parquet files (--data_dir, data_dir=)")
    elif not Path(data_dir).is_dir():
        raise FileNotFoundError(f"{data_dir}: there is no such folder")
    else:
        where = str(Path(data_dir).resolve())
    if options.split_file is not None:
        raise ValueError(f"{where}: a split file is for annotation files; a table has its splits")
    splits = load_parquet(where, None if cache_dir is None else str(cache_dir))
    check_splits(splits)
    notes: list[str] = []
    if options.descriptions is not None or options.outfits is not None:
        notes += _join_tables(splits, where, options)
    if splits.get("train") and "validation" not in splits:
        people = np.array(splits["train"]["person_id"][:])
        held_out, note = hold_out(people.tolist(), options.val_people, options.seed, where)
        notes.append(note)
        is_held_out = np.isin(people, list(held_out))
        splits["validation"] = splits["train"].select(np.flatnonzero(is_held_out))
        splits["train"] = splits["train"].select(np.flatnonzero(~is_held_out))
    return splits, notes


def _join_tables(splits: DatasetDict, where: str, options: Options) -> list[str]:
    """Joins descriptions and outfits to tables, in place, and returns the notes about it."""
    for name, split in splits.items():
        if "file_path" not in split.column_names:
            raise ValueError(f"{where}, split {name}: no column file_path to join descriptions and outfits by")
    columns = {
        column: [value for split in splits.values() for value in split[column][:]]
        for column in ("file_path", "outfit_id", *DESCRIPTION_KEYS)
    }
    notes = join(columns, options)
    first = 0
    for name, split in splits.items():
        for column in columns.keys() - {"file_path"}:
            values = columns[column][first : first + len(split)]
            splits[name] = with_column(splits[name], column, values, TABLE_FEATURES[column])
        first += len(split)
    return notes
