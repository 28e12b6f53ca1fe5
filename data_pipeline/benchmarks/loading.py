"""Loads any data set by its name, from a local folder or the Hub, into one table layout."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from modeling_bdam.files import did_you_mean

from ..offline import go_offline_if_unreachable
from ..schema import ATTRIBUTE_FEATURES, check_splits
from ..synthetic.dataset import SYNTHETIC_SETS, load_synthetic
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
from .pretraining import HAM_PEDES, LUPERSON_MLLM, SYNTH_PEDES
from .rstpreid import RSTPREID
from .shards import load_shards
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
    "synth-pedes": SYNTH_PEDES,
    "ham-pedes": HAM_PEDES,
    "luperson-mllm": LUPERSON_MLLM,
    "folder": FOLDER,
}
"""The sets that `load_person_dataset` reads from a folder of images, by name."""
OTHER_SETS = {
    "parquet": {"title": "Parquet folder", "origin": "`bdam data convert`", "layout": "data/*.parquet with the images"},
    "shards": {
        "title": "shards of millions of images",
        "origin": "`bdam data convert`, or WebDataset",
        "layout": "train-*.parquet or train-*.tar, with the images",
    },
    "hub:OWNER/NAME": {"title": "data set of the Hub", "origin": "its owner", "layout": "nothing: it needs no folder"},
    "synthetic": {"title": "synthetic pedestrians", "origin": "this package", "layout": "nothing: it needs no folder"},
    "synthetic-station": {
        "title": "synthetic pedestrians, drawn and described in another way",
        "origin": "this package",
        "layout": "nothing: it needs no folder",
    },
}
"""The other names that `load_person_dataset` accepts, with the fields of a `Benchmark` that describe them."""


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
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    cache_dir: PathLike | None = None,
    synthetic: Mapping[str, Any] | None = None,
) -> DatasetDict:
    """Loads a person data set from the disk or the Hub into the table layout of this project.

    Images stay in their files and are decoded when a row is read. The table is cached, keyed by the contents of the
    annotation files, so that later loads read no annotation. Warnings for the user are logged at every load.

    Args:
        name: one of `BENCHMARKS`; `synthetic` or `synthetic-station` for the pedestrians that this package draws;
            `parquet` for a folder of `save_parquet`; `shards` for such a folder or for WebDataset, whose images are not
            copied to the cache (see `load_shards`); `hub:OWNER/NAME` for a data set of the Hub in this layout.
        data_dir: the folder that the set was unpacked to, or its parent; none for `hub:` and the drawn sets.
        descriptions: a JSON Lines file, joined by `file_path`, see `read_descriptions`. Images without a line keep the
            descriptions of the set, which are mostly None. Captions in it become the column `styled_captions`, and
            attribute fields the columns of `ATTRIBUTE_FEATURES`.
        outfits: a JSON file `{file_path: outfit}` that replaces the outfits of the set, see `read_outfits`.
        split_file: a JSON file that replaces the splits of the annotation, see `read_split_file`.
        val_people: number of train people to hold out if a set has no validation split; 5 % by default.
        seed: seed for the people that are held out or, in a `folder` without splits, divided.
        skip_unreadable: drops and lists images that are missing or cannot be decoded, instead of raising an error.
            Ignored for `parquet` and `hub:`.
        check_images: decodes every image at the first load, so that a damaged one is found before a training. Images
            are decoded in any case with `skip_unreadable`.
        exclude: patterns of files and folders to leave out, see `list_images`. Only for a folder of images, as is
            `follow_links`.
        follow_links: follows symbolic links that lead out of the image folder.
        cache_dir: by default the cache of `datasets`.
        synthetic: arguments of `load_synthetic`, only for the drawn sets.

    Returns:
        The splits that the set has, of `train`, `validation` and `test`: the columns of `PERSON_FEATURES`, then
        `file_path` and optionally `styled_captions`. `test` contains queries and gallery. `person_id` is the number in
        the set, except where test people and train people share numbers. No person is in two splits.

    Raises:
        ValueError: an unknown name, or an invalid annotation; the message names file and entry.
        FileNotFoundError: a folder, a file or images are missing; the message names the source of the set.
        OSError: images cannot be decoded; the message names some of them.
    """
    kind = name.lower().replace("_", "-")
    if (exclude or follow_links) and kind not in BENCHMARKS and (kind in OTHER_SETS or kind.startswith("hub:")):
        raise ValueError(f"{name}: the set has no folder of images; drop {'exclude' if exclude else 'follow_links'}")
    if kind in SYNTHETIC_SETS:
        given = {"data_dir": data_dir, "descriptions": descriptions, "outfits": outfits, "split_file": split_file}
        if unused := [option for option, value in given.items() if value is not None]:
            raise ValueError(f"{kind}: the set is drawn, with its own descriptions and outfits; drop {unused[0]}")
        return load_synthetic(**(synthetic or {}), name=kind, cache_dir=None if cache_dir is None else str(cache_dir))
    paths = [None if file is None else Path(file) for file in (descriptions, outfits, split_file)]
    more = (val_people, seed, skip_unreadable, check_images, tuple(exclude), follow_links)
    options = Options(paths[0], paths[1], paths[2], *more)
    if kind in ("parquet", "shards") or kind.startswith("hub:"):
        splits, notes = _load_tables(name, data_dir, options, cache_dir)
    elif kind in BENCHMARKS:
        splits, notes = _load_images(kind, data_dir, options, cache_dir)
    else:
        names = [*BENCHMARKS, *OTHER_SETS]
        raise ValueError(f"unknown data set {name!r} (known: {', '.join(names)}){did_you_mean(kind, names)}")
    for note in notes:
        logger.warning(note)
    return splits


def license_of(name: str) -> str:
    """Returns the license terms of a data set in words, by its `--dataset_name`; for the cards."""
    if name in SYNTHETIC_SETS:
        return "drawn by this package, Apache-2.0; shows no real person"
    return BENCHMARKS[name].license if name in BENCHMARKS else UNKNOWN_LICENSE


def _load_images(
    kind: str, data_dir: PathLike | None, options: Options, cache_dir: PathLike | None
) -> tuple[DatasetDict, list[str]]:
    """Returns a benchmark's splits and warnings, from the cache or else from its files."""
    benchmark = BENCHMARKS[kind]
    source = _locate(benchmark, data_dir, options)
    files = {"annotation": source.annotation}
    files |= {name: getattr(options, name) for name in ("descriptions", "outfits", "split_file")}
    made_of = {
        "folder": str(source.folder.resolve()),
        "images": source.images.fingerprint(with_contents=options.skip_unreadable),
        "files": {role: [str(file), file_digest(file)] for role, file in files.items() if file is not None},
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
    """Finds a benchmark's annotation file and images, or raises an error with the source of the set."""
    how = benchmark.how_to_get()
    if data_dir is None:
        raise ValueError(f"{benchmark.title}: pass its folder (--data_dir, data_dir=). {how}")
    top = Path(data_dir)
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: there is no such folder. {how}")
    for folder in (top, *(top / inner for inner in benchmark.top_folders)):
        annotation = _find_annotation(folder, benchmark.annotations)
        if annotation is not None or any((folder / marker).is_dir() for marker in benchmark.markers):
            break
    else:
        required = " or ".join(benchmark.annotations or [f"{marker}/" for marker in benchmark.markers])
        present = first_of(sorted(entry.name + "/" * entry.is_dir() for entry in top.iterdir()), 6)
        raise FileNotFoundError(f"{top}: there is no {required} in it, only {present or 'nothing'}. {how}")
    root = next((folder / inner for inner in benchmark.image_folders if (folder / inner).is_dir()), None)
    if root is None:
        raise FileNotFoundError(f"{folder}: there is no folder {' or '.join(benchmark.image_folders)} in it. {how}")
    return Source(folder, annotation, list_images(root, options.exclude, options.follow_links), options)


def _find_annotation(folder: Path, spellings: Sequence[str]) -> Path | None:
    for spelling in spellings:
        found = sorted(file for file in folder.glob(spelling) if not file.name.startswith("."))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ValueError(f"{folder}: several annotation files, {names}; rename the right one to {spellings[0]}")
        if found:
            return found[0]
    return None


def _load_tables(
    name: str, data_dir: PathLike | None, options: Options, cache_dir: PathLike | None
) -> tuple[DatasetDict, list[str]]:
    """Returns the splits of a Parquet folder or a data set of the Hub, and warnings about them."""
    if name.lower().startswith("hub:"):
        where = name[len("hub:") :]
        go_offline_if_unreachable(where)
    elif data_dir is None:
        raise ValueError(f"{name}: pass the folder of its files (--data_dir, data_dir=)")
    elif not Path(data_dir).is_dir():
        raise FileNotFoundError(f"{data_dir}: there is no such folder")
    else:
        where = str(Path(data_dir).resolve())
    if options.split_file is not None:
        raise ValueError(f"{where}: a Parquet set takes no split file, since it has its own splits; drop split_file")
    cache = None if cache_dir is None else str(cache_dir)
    is_shards = name.lower() == "shards"
    splits, notes = load_shards(Path(where), cache, options) if is_shards else (load_parquet(where, cache), [])
    check_splits(splits)
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
    """Joins descriptions and outfits to tables, in place, and returns warnings."""
    if options.descriptions is None and options.outfits is None:
        return []
    for name, split in splits.items():
        if "file_path" not in split.column_names:
            raise ValueError(f"{where}, split {name}: no column file_path to join descriptions and outfits by")
    columns = {
        column: [value for split in splits.values() for value in split[column][:]]
        for column in ("file_path", "outfit_id", *DESCRIPTION_KEYS)
    }
    notes = join(columns, options)
    known = {**TABLE_FEATURES, **ATTRIBUTE_FEATURES}
    first = 0
    for name, split in splits.items():
        for column in columns.keys() - {"file_path"}:
            values = columns[column][first : first + len(split)]
            splits[name] = with_column(splits[name], column, values, known[column])
        first += len(split)
    return notes
