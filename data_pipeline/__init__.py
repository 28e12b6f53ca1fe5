"""Data sets for text-to-image person re-identification in one table layout.

The package is imported lazily: each public name is imported from its module at its first use.
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

# A public name must differ from every module name: an imported module would replace the name in this namespace.
_HOMES = {
    "benchmarks.concatenation": ("concatenate_person_datasets",),
    "benchmarks.inspection": ("inspect_splits",),
    "benchmarks.loading": ("BENCHMARKS", "load_person_dataset"),
    "benchmarks.parquet": ("save_parquet",),
    "hub": ("push_person_dataset",),
    "images": ("UnreadableImageError", "check_image", "open_image", "with_image_files"),
    "schema": ("PERSON_FEATURES", "check_splits"),
    "synthetic.dataset": ("load_synthetic", "synthetic_caption_styles"),
    "synthetic.people": ("Outfit", "Person", "PersonTraits", "describe_person"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


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
