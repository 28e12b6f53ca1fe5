"""The manifest of an index: a JSON file with the model fingerprint and the current generation."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import modeling_bdam
from modeling_bdam.files import write_text

from ...benchmarks.text_files import read_json
from ..stores.store import IndexType

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`. It is written last, so that it only names complete files."""

    package_version: str  # version that wrote the index; readers need the same major and minor version
    model: str  # folder or Hub name of the model
    weights: str  # fingerprint of the weights
    config: str  # fingerprint of the config and the image processor
    dimensions: int  # length of a vector, twice the model's `projection_dim`
    clothing_weight: float  # the model's β, the default of searches
    count: int  # number of images
    root: str  # folder that the image paths are relative to; a relative root is relative to the index folder
    generation: str  # name of the subfolder with the current table and vectors
    index_type: IndexType
    store: str | None = None  # address of the Milvus cluster with the vectors; None if they are in the index folder
    collection: str | None = None  # Milvus collection of the vectors
    time_zone: str = "UTC"  # zone in which times with an offset are shown and compared with dates
    home: str | None = None  # folder of an index with a collection; a copied or moved one is in another
    format: int = FORMAT  # version of the file format

    def describe_model(self) -> str:
        """Returns name and fingerprints of the model for a message."""
        return f"{self.model} (weights {self.weights}, config {self.config})"

    def image_root(self, index: Path) -> Path:
        """Returns the folder that the image paths are relative to."""
        return index.absolute() / self.root


def read_manifest(index: Path) -> Manifest:
    """Reads the manifest of an index.

    Raises `FileNotFoundError` without an index, and `ValueError` for a damaged manifest or an incompatible version.
    """
    path = index / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{index}: there is no index (no {MANIFEST}); create one with "
            f"`bdam index --model MODEL --images FOLDER --index {index}`"
        )
    values = read_json(path)
    version = values.get("package_version") if isinstance(values, dict) else None
    if not isinstance(version, str):
        raise ValueError(f"{path}: not the manifest of an index; remove the folder and build the index again")
    if values.get("format") != FORMAT or _series(version) != _series(modeling_bdam.__version__):
        raise ValueError(
            f"{index}: the index was built by version {version} (format {values.get('format')}), but this is version "
            f"{modeling_bdam.__version__} (format {FORMAT}): remove the folder and build the index again"
        )
    needed = {field.name for field in fields(Manifest) if field.default is MISSING}
    if odd := (needed - set(values)) | (set(values) - {field.name for field in fields(Manifest)}):
        keys = ", ".join(sorted(odd))
        raise ValueError(f"{path}: missing or unknown keys: {keys}; remove the folder and build the index again")
    return Manifest(**values)


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Replaces the manifest atomically (temporary file, fsync, rename), which publishes its generation."""
    write_text(index / MANIFEST, json.dumps(asdict(manifest), indent=2))  # ASCII: a path may be invalid UTF-8


def _series(version: str) -> list[str]:
    """Returns major and minor version; patch releases can read one another's indexes."""
    return version.split(".")[:2]
