"""Embeds the queries of the demo page: sentences, images of the index, uploaded pictures."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...images import open_image
from ..composition import compose_vectors
from ..feedback import move_query
from ..gallery import PersonGallery
from .pictures import Pictures, small_picture
from .session import Kind, Query, Session

_LONGEST_SENTENCE = 20_000  # characters; models read a few hundred
_SHOWN_SENTENCE = 200  # characters in the status line
_PICTURES = 20  # uploaded pictures of one window


class Queries:
    """Embeds queries; all methods raise `ValueError` for one that cannot be embedded."""

    def __init__(self, gallery: PersonGallery, pictures: Pictures) -> None:
        self._gallery, self._pictures = gallery, pictures

    def sentence(self, sentence: str) -> Query:
        """Embeds a sentence."""
        if len(sentence) > _LONGEST_SENTENCE:
            raise ValueError(f"the sentence has {len(sentence)} characters; the limit is {_LONGEST_SENTENCE}")
        vector = self._gallery.embedder.embed_sentence(sentence)
        shown = sentence if len(sentence) <= _SHOWN_SENTENCE else sentence[:_SHOWN_SENTENCE] + "…"
        return Query("q", sentence, shown, vector, tuple(self._gallery.remarks(sentence)), calibrated_as="text")

    def like(self, name: str) -> Query:
        """Returns the query of an image of the index, by its name."""
        row = self._gallery.row_of(name)
        picture = self._pictures.thumbnail(self._gallery.path(row))
        title, vector, digest = f"like the image {name}", self._gallery.vector(row), self._gallery.content(row)
        return Query("like", name, title, vector, picture=picture, digest=digest, calibrated_as="image")

    def picture(self, session: Session, file: str) -> Query:
        """Embeds an uploaded picture, keeps it for the way back, and deletes its file."""
        path = Path(file)
        try:
            image, digest = open_image(path), hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"the picture: {str(error).removeprefix(f'{file}: ')}") from None
        finally:
            with suppress(OSError):
                path.unlink()
        vector, remarks = self._gallery.embedder.embed_image(image), self._gallery.picture_remarks(image)
        query = Query(
            "picture",
            digest[:16],
            "like this picture",
            vector,
            tuple(remarks),
            small_picture(image),
            digest,
            calibrated_as="image",
        )
        session.pictures[query.key] = query
        while len(session.pictures) > _PICTURES:
            session.pictures.pop(next(iter(session.pictures)))
        return query

    def known_picture(self, session: Session, key: str) -> Query:
        """Returns the query of a picture that was uploaded in this window, by its digest."""
        if key not in session.pictures:
            raise ValueError("the picture of this address is not kept: upload it again")
        return session.pictures[key]

    def composed(self, session: Session, kind: Kind, key: str, sentence: str) -> Query:
        """Returns the query of the person of a picture in the clothes of a sentence."""
        picture, words = self.like(key) if kind == "like" else self.known_picture(session, key), self.sentence(sentence)
        return replace(
            picture,
            title=f"{picture.title}, {words.title}",
            vector=compose_vectors(picture.vector, words.vector),
            remarks=picture.remarks + words.remarks,
            words=sentence,
            calibrated_as="composed",
        )

    def marked(self, query: Query, marks: Mapping[str, bool]) -> Query:
        """Returns a query that the marked images move (`move_query`); `marks` says of each name whether it is right."""
        original = query.vector if query.original is None else query.original
        right, wrong = (tuple(name for name, is_right in marks.items() if is_right == kind) for kind in (True, False))
        rows = ([self._gallery.row_of(name) for name in names] for names in (right, wrong))
        liked, disliked = (np.array([self._gallery.vector(row) for row in found]) for found in rows)
        vector = move_query(original, liked, disliked) if marks else original
        return replace(query, vector=vector, original=original, right=right, wrong=wrong)
