"""Kinds of words that the word lists of `neutralize` lack, by spaCy's English tagger and parser."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from modeling_bdam.files import install_command

from ..descriptions.lexicon import word_set

MODEL = "en_core_web_sm"
INSTALL = f"{install_command('styles')} && python -m spacy download {MODEL}"
Tagger = Callable[[str], Mapping[int, str]]
"""Maps a caption to the kinds of its words ("people", "things", "attributes", "numbers") by the end of each word."""

_BEFORE_NOUNS = ("compound", "amod", "nmod", "nummod")
_NAMES_OF_PEOPLE = ("PERSON", "NORP")
# Lemmas about the photo, the place or the pose, which belong to the writing style; verbs that are tagged as nouns.
_KEPT = word_set(
    "able another back background bench bit bottom building bus camera center centre certain corner corridor crowd "
    "direction distance door edge end entrance everyone everything exit floor foreground frame front ground half image "
    "kind left letter line lot many middle most much one other part people person photo picture place position post "
    "right road room same scene shot side sidewalk sort step street style such thing top type view visible wall way "
    "bend carry face hold hurry lean look point run sit stand turn walk wave wear"
)


@functools.cache
def load_tagger(model: str = MODEL) -> Tagger | None:
    """Loads a spaCy pipeline as a tagger; returns None if spaCy or the pipeline is not installed."""
    try:
        import spacy

        return tagger_of(spacy.load(model))
    except (ImportError, OSError):
        return None


def tagger_of(pipeline: Callable[[str], Any]) -> Tagger:
    """Makes a tagger of a spaCy pipeline with a tagger, a parser, a lemmatizer and named entities."""

    def tag(caption: str) -> dict[int, str]:
        kinds = {token.idx + len(token): _kind(token) for token in pipeline(caption)}
        return {end: kind for end, kind in kinds.items() if kind is not None}

    return tag


def _kind(token: Any) -> str | None:
    """Returns the kind of a spaCy token; None for a word that belongs to the writing style."""
    if {token.lower_, token.lemma_.lower()} & _KEPT:
        return None
    if token.pos_ == "NUM":
        return "numbers"
    if token.pos_ == "ADJ" or (token.pos_ == "VERB" and token.dep_ == "amod"):
        return "attributes" if token.dep_ in _BEFORE_NOUNS else None
    if token.pos_ not in ("NOUN", "PROPN"):
        return None
    if token.dep_ in _BEFORE_NOUNS:
        return "attributes"
    acts = token.dep_ in ("nsubj", "nsubjpass", "ROOT") and token.head.lemma_ != "be"
    return "people" if acts or token.ent_type_ in _NAMES_OF_PEOPLE else "things"
