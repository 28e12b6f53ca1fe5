"""Data sets for text-to-image person re-identification, all turned into one table layout."""

from .contact_sheet import contact_sheet
from .schema import PERSON_FEATURES, check_splits
from .synthetic import load_synthetic, synthetic_caption_styles
from .synthetic_people import Outfit, Person, PersonTraits, describe_person

__all__ = [
    "PERSON_FEATURES",
    "Outfit",
    "Person",
    "PersonTraits",
    "check_splits",
    "contact_sheet",
    "describe_person",
    "load_synthetic",
    "synthetic_caption_styles",
]
