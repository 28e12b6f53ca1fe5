"""Neutralizes captions by rules: replaces the description of the person by vague words, and keeps the writing style.

"The tall man is wearing a red coat." and "The woman is wearing blue jeans and boots, and carries a bag." both become
"The person is wearing something.", so that captions by the same annotator become similar.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from .tagger import Tagger

_LEXICON = Path(__file__).with_name("neutralize_words.json")
_TOKEN = re.compile(r"(?:(?!['’]s\b)[^\W\d_]|['’-](?!s\b)(?=[^\W\d_]))+|['’]s\b|\d+(?:['’]?s\b)?|[^\w\s]|_")
_PRONOUNS = {"he": "they", "she": "they", "him": "them", "his": "their", "her": "their", "hers": "theirs"}
_PRONOUNS |= {"himself": "themselves", "herself": "themselves"}
_THEY = re.compile(r"\b([Tt]hey)\s?(is|was|has|does|['’]s)\b")
_PLURAL = {"is": "are", "was": "were", "has": "have", "does": "do", "'s": "are", "’s": "are"}
_COPULAS = frozenset(("is", "are", "was", "were", "be", "looks", "look", "appears", "appear", "seems", "seem"))

# Each token has a one-letter code, so that phrases are regular expressions over the codes of a caption.
_CODES = {"people": "P", "things": "T", "body": "B", "attributes": "A", "modifiers": "M", "numbers": "N"}
_ARTICLE, _DETERMINER, _JOINER, _WITH, _WHO, _HAVE, _MARK, _OTHER = "adjwrh.x"
_FUNCTION_WORDS = {
    **dict.fromkeys(("a", "an", "some", "any", "another"), _ARTICLE),
    **dict.fromkeys(("the", "this", "that", "these", "those", "their", "its", "both", "each", "all"), _DETERMINER),
    **dict.fromkeys((",", "and", "&", "/", "or", "-"), _JOINER),
    **dict.fromkeys(("with", "having"), _WITH),
    **dict.fromkeys(("who", "which"), _WHO),
    **dict.fromkeys(("has", "have", "had"), _HAVE),
}
# [article] [attributes, optionally joined] nouns. The last noun decides the kind ("shoulder bag"); more nouns of this
# kind may follow without a joiner ("long sleeve black top").
_PHRASE = re.compile(r"[adN]*(?:[MN]|A(?:j{1,2}(?=[AMN]))?)*[PTB]*([PTB])(?:[AMN]+\1(?![PTB]))*")
_ATTRIBUTES = re.compile(r"M*A(?:j{0,2}[MN]*A)*")
# The number of mentioned things depends on the photo, so only the first one of a list is kept:
_ADDITIONS = (
    re.compile(r"T[xh][ad]?B"),  # something on their body
    re.compile(r"T(?:[jw]+d?T)+"),  # something, something and something
    re.compile(r"P(?:j?w|j?rh)d?T"),  # a person with something, a person who has something
)

Tokens = list[tuple[str, str]]
"""Words and punctuation marks, each with its code."""


def neutralize(caption: str, tagger: Tagger | None = None) -> str:
    """Replaces all words of a caption that describe the person by vague words.

    Removes colors, garments, carried things, build, hair, skin, age, gender and numbers; keeps verbs, word order and
    punctuation. The rules are for English and approximate: the result is input for a text encoder. A tagger adds the
    kinds of words that the word lists lack, such as brands, occupations and rare garments.
    """
    kinds = tagger(caption) if tagger else {}
    tokens = _replaced(_ATTRIBUTES, _replaced(_PHRASE, _tokens(caption, kinds), _vague_noun), _vague_attributes)
    for addition in _ADDITIONS:
        tokens = _replaced(addition, tokens, lambda found, before, after: found[:1])
    text = re.sub(r"\s+([,.;:!?)’'])", r"\1", " ".join(text for text, _ in tokens))
    return _THEY.sub(lambda match: f"{match[1]} {_PLURAL[match[2]]}", text)


def descriptive_words(text: str) -> set[str]:
    """Returns the words of a text, in lower case, that `neutralize` would replace."""
    words = {text.lower() for text, code in _tokens(text, {}) if code in "PTBAN"}
    return words - {"person", "people", "something", "thing", "things", "body", "one", "several"}


def _tokens(caption: str, kinds: Mapping[int, str]) -> Tokens:
    tokens = []
    for match in _TOKEN.finditer(caption):
        text = match[0]
        vague = "several" if text.isdigit() else _PRONOUNS.get(text.lower())
        if vague:
            text = vague.capitalize() if text[0].isupper() else vague
        code = _code(text.lower())
        tokens.append((text, _CODES[kinds[match.end()]] if code == _OTHER and match.end() in kinds else code))
    return tokens


@cache
def _lexicon() -> dict[str, str]:
    """Returns the code of each known word."""
    lexicon: dict[str, str] = {}
    words = json.loads(_LEXICON.read_text(encoding="utf-8"))
    for kind in ("modifiers", "attributes", "numbers", "people", "things", "body"):
        for word in " ".join(words[kind]).split():
            lexicon[word] = _CODES[kind]
            if kind in ("people", "things", "body"):
                stem = re.sub(r"(?<=[^aeiou])y$", "ie", word)
                lexicon.setdefault(stem + ("es" if re.search(r"(?:s|x|z|ch|sh)$", word) else "s"), _CODES[kind])
    return lexicon | _FUNCTION_WORDS


@cache
def _code(word: str) -> str:
    lexicon = _lexicon()
    if word in lexicon:
        return lexicon[word]
    if word[0].isdigit():
        return _CODES["things"]  # as in "in his 30s"
    if not word[0].isalpha():
        return _MARK
    codes = [lexicon.get(part, _OTHER) for part in word.split("-")]
    if codes[-1] in "PTB":
        return codes[-1]  # as in "dress-shoes"
    return _CODES["attributes"] if any(code in "AMPTB" for code in codes) else _OTHER  # as in "dark-grey"


def _replaced(pattern: re.Pattern[str], tokens: Tokens, by: Callable[[Tokens, Tokens, Tokens], Tokens]) -> Tokens:
    """Replaces each match of the pattern in the codes by `by(found, before, after)`."""
    out: Tokens = []
    at = 0
    for match in pattern.finditer("".join(code for _, code in tokens)):
        out += tokens[at : match.start()]
        out += by(tokens[match.start() : match.end()], out, tokens[match.end() :])
        at = match.end()
    return out + tokens[at:]


def _vague_noun(found: Tokens, before: Tokens, after: Tokens) -> Tokens:
    """Replaces a noun phrase by a vague noun with the determiner of the phrase."""
    (first, first_code), (last, code) = found[0], found[-1]
    plural = last.lower().endswith(("men", "people", "s"))
    noun = {"P": "people" if plural else "person", "B": "body", "T": "something"}[code]
    determiner = ""
    if first_code == _DETERMINER:
        determiner = first.lower()
        noun = "thing" if code == "T" else noun
    elif first_code in (_ARTICLE, "N"):
        determiner = {"person": "a", "people": "some", "body": "the", "something": ""}[noun]
    vague = [(determiner, first_code), (noun, code)] if determiner else [(noun, code)]
    if first[0].isupper() and (not before or before[-1][1] == _MARK):
        vague[0] = (vague[0][0].capitalize(), vague[0][1])
    return vague


def _vague_attributes(found: Tokens, before: Tokens, after: Tokens) -> Tokens:
    """Removes attributes without a known noun if another word follows; otherwise makes a vague predicate."""
    word_before, (word_after, code_after) = before[-1][0] if before else "", after[0] if after else ("", _MARK)
    if "as" in (word_before, word_after):  # as long as
        return found
    if word_before not in _COPULAS and code_after == _OTHER:
        return []
    return [("of", _OTHER), ("some", _OTHER), ("kind", _OTHER)]
