"""Search a gallery of person images by a sentence, by a picture or by a vector."""

from .gallery import PersonGallery, PersonGroup, PersonHit, group_by_person
from .index.indexing import IndexReport, build_index

__all__ = ["IndexReport", "PersonGallery", "PersonGroup", "PersonHit", "build_index", "group_by_person"]
