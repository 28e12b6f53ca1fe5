"""Captions to find styles in: those of a data set, or of a file of one's own."""

from pathlib import Path

from datasets import Dataset

from ..benchmarks.loading import load_person_dataset
from ..benchmarks.text_files import check_string, read_json_lines, read_text
from ..synthetic.dataset import synthetic_caption_styles


def captions_of_dataset(name: str, data_dir: Path | None = None) -> list[str]:
    """The captions of a data set's training split (of its first split where there is no training).

    Args:
        name: as of `load_person_dataset`, or `synthetic`.

    Raises:
        ValueError, OSError: the data set cannot be loaded, or has no captions.
    """
    split = _training_split(name, data_dir)
    captions = [caption for texts in split["captions"] for caption in texts or () if caption.strip()]
    if not captions:
        raise ValueError(f"{name}: this data set has no captions to find styles in; give captions by --captions FILE")
    return captions


def captions_of_file(file: Path) -> list[str]:
    """The captions of a file: one a line; in `.jsonl` under `caption`, or as a list under `captions`.

    Raises:
        ValueError: a line is of another form, or there are no captions.
        OSError: the file cannot be read.
    """
    if file.suffix.lower() != ".jsonl":
        captions = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    else:
        captions = []
        for where, line in read_json_lines(file):
            texts = line.get("captions", line.get("caption"))
            if texts is None:
                raise ValueError(f"{where}: no key `caption` and no key `captions`")
            for text in texts if isinstance(texts, list) else [texts]:
                if check_string(text, where, "a caption").strip():
                    captions.append(text.strip())
    if not captions:
        raise ValueError(f"{file}: there are no captions in it")
    return captions


def true_styles_of_synthetic() -> list[str]:
    """Who wrote each of `captions_of_dataset("synthetic")`: what a comparison is scored by."""
    return [style for styles in synthetic_caption_styles(_training_split("synthetic", None)) for style in styles]


def _training_split(name: str, data_dir: Path | None) -> Dataset:
    splits = load_person_dataset(name, data_dir)
    split = splits["train"] if "train" in splits else next(iter(splits.values()))
    return split.select_columns([column for column in split.column_names if column != "image"])
