"""Captions to find styles in: those of a data set or of a user's file."""

from pathlib import Path

from datasets import Dataset

from ..benchmarks.loading import load_person_dataset
from ..benchmarks.text_files import check_string, read_json_lines, read_text
from ..synthetic.dataset import synthetic_caption_styles


def captions_of_dataset(name: str, data_dir: Path | None = None) -> list[str]:
    """Returns the captions of a data set's training split, or of its first split if it has no training split.

    Args:
        name: a name for `load_person_dataset`.

    Raises:
        ValueError, OSError: the data set cannot be loaded or has no captions.
    """
    split = _training_split(name, data_dir)
    captions = [caption for texts in split["captions"] for caption in texts or () if caption.strip()]
    if not captions:
        raise ValueError(f"{name}: the data set has no captions; pass a file of captions (--captions FILE)")
    return captions


def captions_of_file(file: Path) -> list[str]:
    """Reads captions from a file: one per line, or JSON Lines with `caption` or a list `captions`.

    Raises:
        ValueError: a line has another structure, or there are no captions.
        OSError: the file cannot be read.
    """
    captions = []
    if file.suffix.lower() == ".jsonl":
        for where, line in read_json_lines(file):
            texts = line.get("captions", line.get("caption"))
            if texts is None:
                raise ValueError(f"{where}: no key `caption` and no key `captions`")
            texts = texts if isinstance(texts, list) else [texts]
            captions += [check_string(text, where, "a caption") for text in texts]
    else:
        captions = read_text(file).splitlines()
    captions = [caption.strip() for caption in captions if caption.strip()]
    if not captions:
        raise ValueError(f"{file}: contains no captions")
    return captions


def true_styles_of_synthetic() -> list[str]:
    """Returns the true style of each caption of `captions_of_dataset("synthetic")`, to evaluate clusterings."""
    return [style for styles in synthetic_caption_styles(_training_split("synthetic", None)) for style in styles]


def _training_split(name: str, data_dir: Path | None) -> Dataset:
    splits = load_person_dataset(name, data_dir)
    split = splits["train"] if "train" in splits else next(iter(splits.values()))
    return split.select_columns([column for column in split.column_names if column != "image"])
