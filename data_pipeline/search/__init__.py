"""Search a gallery of person images by a sentence, by a picture or by a vector.

The package is imported lazily: a search imports nothing that only indexing needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .gallery import PersonGallery
    from .hits import PersonGroup, PersonHit, group_by_person
    from .index.indexing import build_index
    from .index.report import IndexReport

_HOMES = {
    "gallery": ("PersonGallery",),
    "hits": ("PersonGroup", "PersonHit", "group_by_person"),
    "index.indexing": ("build_index",),
    "index.report": ("IndexReport",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


__all__ = ["IndexReport", "PersonGallery", "PersonGroup", "PersonHit", "build_index", "group_by_person"]
