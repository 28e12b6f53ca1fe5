"""Neutralization with spaCy's tagger: fewer telling words left than by the rules.

Each line of `natural_captions.txt` is a caption with its telling words in brackets: people, clothes, things, brands.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions.lexicon import word_set
from data_pipeline.styles.neutralize import neutralize
from data_pipeline.styles.tagger import MODEL, load_tagger, tagger_of

CAPTIONS = Path(__file__).with_name("natural_captions.txt").read_text(encoding="utf-8").splitlines()
# Words that the rules remove or add for the sake of the grammar.
FUNCTION_WORDS = word_set(
    "a an the this that and or with of in on his her their he she it who which has have had is are was to both each "
    "all some person people something thing things body kind several"
)


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_][\w'’-]*", text.lower())) - FUNCTION_WORDS


def measure(neutral: Callable[[str], str]) -> dict[str, tuple[int, int]]:
    """Counts the telling words left and the neutral words lost, each with the number of all such words."""
    counts = [0, 0, 0, 0]
    for line in CAPTIONS:
        telling = set().union(*map(words, re.findall(r"\[([^\]]+)\]", line)))
        others = words(re.sub(r"\[[^\]]+\]", " ", line)) - telling
        written = words(neutral(re.sub(r"[\[\]]", "", line)))
        found = (len(telling & written), len(telling), len(others - written), len(others))
        counts = [total + count for total, count in zip(counts, found, strict=True)]
    return {"telling words left": (counts[0], counts[1]), "neutral words lost": (counts[2], counts[3])}


def test_rules_lose_few_neutral_words() -> None:
    assert len(CAPTIONS) >= 100
    measured = measure(neutralize)
    print("rules:", measured)
    (left, telling), (lost, others) = measured.values()
    assert left < 0.6 * telling and lost < 0.1 * others


def test_spacy_leaves_few_telling_words() -> None:
    tagger = load_tagger()
    if tagger is None:
        pytest.skip(f"needs spaCy with {MODEL}")
    measured = measure(lambda caption: neutralize(caption, tagger))
    print("spaCy:", measured)
    (left, telling), (lost, others) = measured.values()
    assert left < 0.1 * telling and lost < 0.2 * others


class Token:
    """The fields of a spaCy token."""

    def __init__(self, text: str, start: int, pos: str, dep: str, head: str) -> None:
        self.idx, self.lower_, self.lemma_, self.pos_, self.dep_ = start, text.lower(), text.lower(), pos, dep
        self.head = self if not head else Token(head, 0, "VERB", "ROOT", "")
        self.ent_type_, self._length = "", len(text)

    def __len__(self) -> int:
        return self._length


def pipeline(caption: str) -> list[Any]:
    """Tags the words of one caption as spaCy does."""
    tags = {
        "nurse": ("NOUN", "nsubj", "wear"),
        "Lakers": ("PROPN", "compound", "bermudas"),
        "bermudas": ("NOUN", "dobj", "wear"),
        "street": ("NOUN", "pobj", "on"),
        "slowly": ("ADV", "advmod", "walk"),
    }
    found = [(match[0], match.start()) for match in re.finditer(r"\w+", caption)]
    return [Token(text, start, *tags.get(text, ("VERB", "ROOT", ""))) for text, start in found]


CAPTION = "A nurse walks slowly on the street. The nurse wears Lakers bermudas."


@pytest.mark.parametrize(
    ("tagger", "neutral"),
    [
        (None, CAPTION),
        (tagger_of(pipeline), "A person walks slowly on the street. The person wears something."),
    ],
)
def test_neutralize_replaces_words_that_a_tagger_knows(tagger: Any, neutral: str) -> None:
    assert neutralize(CAPTION, tagger) == neutral


def test_tagger_of_reads_a_spacy_pipeline() -> None:
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    ruler = blank.add_pipe("attribute_ruler")
    ruler.add([[{"ORTH": "bermudas"}]], {"POS": "NOUN", "DEP": "dobj"})
    assert tagger_of(blank)("She wears bermudas.") == {len("She wears bermudas"): "things"}


def test_load_tagger_returns_none_without_the_pipeline() -> None:
    assert load_tagger("no_such_pipeline") is None
