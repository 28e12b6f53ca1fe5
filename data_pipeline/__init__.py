"""Data sets for text-to-image person re-identification, all turned into one table layout.

Importing this package costs nothing: each name is imported from its module at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmarks.concatenation import concatenate_person_datasets
    from .benchmarks.inspection import inspect_splits
    from .benchmarks.loading import BENCHMARKS, load_person_dataset
    from .benchmarks.parquet import save_parquet
    from .hub import push_person_dataset
    from .images import UnreadableImageError, check_image, open_image, with_image_files
    from .schema import PERSON_FEATURES, check_splits
    from .synthetic.dataset import load_synthetic, synthetic_caption_styles
    from .synthetic.people import Outfit, Person, PersonTraits, describe_person

# A name must not be a module's as well: once imported, the module would stand in its place.
_HOMES = {
    "BENCHMARKS": "benchmarks.loading",
    "PERSON_FEATURES": "schema",
    "Outfit": "synthetic.people",
    "Person": "synthetic.people",
    "PersonTraits": "synthetic.people",
    "UnreadableImageError": "images",
    "check_image": "images",
    "check_splits": "schema",
    "concatenate_person_datasets": "benchmarks.concatenation",
    "describe_person": "synthetic.people",
    "inspect_splits": "benchmarks.inspection",
    "load_person_dataset": "benchmarks.loading",
    "load_synthetic": "synthetic.dataset",
    "open_image": "images",
    "push_person_dataset": "hub",
    "save_parquet": "benchmarks.parquet",
    "synthetic_caption_styles": "synthetic.dataset",
    "with_image_files": "images",
}


def __getattr__(name: str) -> Any:
    """Import a name from its module at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


__all__ = [
    "BENCHMARKS",
    "PERSON_FEATURES",
    "Outfit",
    "Person",
    "PersonTraits",
    "UnreadableImageError",
    "check_image",
    "check_splits",
    "concatenate_person_datasets",
    "describe_person",
    "inspect_splits",
    "load_person_dataset",
    "load_synthetic",
    "open_image",
    "push_person_dataset",
    "save_parquet",
    "synthetic_caption_styles",
    "with_image_files",
]
