"""The small JSON file at the top of an index: by which model it was built, and which of its files count."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import modeling_bdam

from ...benchmarks.text_files import read_json
from ..stores.store import IndexType

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. It is replaced last, so what it names is always complete.

    Attributes:
        package_version: of the package that wrote the index; another major or minor version does not read it.
        model: folder or Hub name of the model.
        weights: fingerprint of its weights.
        config: fingerprint of its config and of its image processor.
        dimensions: length of a vector, twice the model's `projection_dim`.
        clothing_weight: the model's own β, for searches that give none.
        count: images in the index.
        root: the folder that the images' paths are relative to; a relative root is relative to the index itself.
        generation: name of the folder within the index that holds this state of it.
        index_type: `exact`, `hnsw` or `int8`.
        store, collection: address of the Milvus cluster that holds the vectors, and their name there; or None: they
            are in the folder.
        format: of the files.
    """

    package_version: str
    model: str
    weights: str
    config: str
    dimensions: int
    clothing_weight: float
    count: int
    root: str
    generation: str
    index_type: IndexType
    store: str | None = None
    collection: str | None = None
    format: int = FORMAT

    def describe_model(self) -> str:
        """The model in words, for messages: name and fingerprints."""
        return f"{self.model} (weights {self.weights}, config {self.config})"

    def image_root(self, index: Path) -> Path:
        """The folder that the images' paths are relative to."""
        return index.absolute() / self.root


def read_manifest(index: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: the manifest is damaged, or another version of the package wrote it.
    """
    path = index / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{index}: no index is here (it would have a {MANIFEST}); make one with "
            f"`bdam index --model MODEL --images FOLDER --index {index}`"
        )
    values = read_json(path)
    version = values.get("package_version") if isinstance(values, dict) else None
    if not isinstance(version, str):
        raise ValueError(f"{path}: this is no manifest of an index; remove the folder and build it again")
    if values.get("format") != FORMAT or _series(version) != _series(modeling_bdam.__version__):
        raise ValueError(
            f"{index}: the index was built by version {version} (format {values.get('format')}), and this is version "
            f"{modeling_bdam.__version__} (format {FORMAT}): remove the folder and build it again with `bdam index`"
        )
    names = {field.name for field in fields(Manifest)}
    if set(values) != names:
        odd = ", ".join(sorted(set(values) ^ names))
        raise ValueError(f"{path}: the manifest is damaged ({odd}); remove the folder and build it again")
    return Manifest(**values)


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Puts `manifest` in the place of the old one, at once."""
    unfinished = index / f".{MANIFEST}.{os.getpid()}"
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(asdict(manifest), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(index / MANIFEST)
    finally:
        unfinished.unlink(missing_ok=True)


def _series(version: str) -> list[str]:
    """`0.1` of `0.1.7`: patch releases read one another's indexes."""
    return version.split(".")[:2]
