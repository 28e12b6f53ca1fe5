"""Data sets for text-to-image person re-identification, all turned into one table layout."""

from .benchmarks.parquet import save_parquet
from .concatenation import concatenate_person_datasets
from .contact_sheet import contact_sheet
from .loading import BENCHMARKS, load_person_dataset
from .schema import PERSON_FEATURES, check_splits
from .synthetic import load_synthetic, synthetic_caption_styles
from .synthetic_people import Outfit, Person, PersonTraits, describe_person

__all__ = [
    "BENCHMARKS",
    "PERSON_FEATURES",
    "Outfit",
    "Person",
    "PersonTraits",
    "check_splits",
    "concatenate_person_datasets",
    "contact_sheet",
    "describe_person",
    "load_person_dataset",
    "load_synthetic",
    "save_parquet",
    "synthetic_caption_styles",
]
