"""Checks a query sentence for what a model does not read: negation, foreign words, too many words."""

import re
from typing import Any

_PIECES_PER_KNOWN_WORD = 2  # a word of more subword tokens is taken for a foreign or misspelled word
_NEGATION = re.compile(
    r"\b(?:no|not|none|never|without|neither|nor|nothing|except|lacks?|lacking|non|isn['’]?t|aren['’]?t|doesn['’]?t"
    r"|don['’]?t|hasn['’]?t|haven['’]?t|wasn['’]?t|can['’]?t|cannot|w/o)\b",
    re.IGNORECASE,
)


def check_sentence(sentence: str) -> None:
    """Raises `ValueError` for an empty sentence, or one with a broken character."""
    if not sentence.strip():
        raise ValueError("the sentence is empty: describe the person to look for")
    try:
        sentence.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = sentence.encode("utf-8", "replace").decode()
        raise ValueError(
            f"the sentence {shorten(shown)!r} has a broken character at position {error.start + 1}: write it in UTF-8"
        ) from None


def sentence_remarks(sentence: str, tokenizer: Any) -> list[str]:
    """Returns a note on each: negation, words that are foreign to the tokenizer, words above the model's limit."""
    notes = []
    negations = list(dict.fromkeys(match[0].lower() for match in _NEGATION.finditer(sentence)))
    if negations:
        notes.append(
            f"the model does not read negation ({', '.join(negations)}): images with what is named score higher; "
            "describe what is visible instead"
        )
    words = list(dict.fromkeys(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", sentence)))
    unknown = [word for word in words if not _NEGATION.fullmatch(word) and _is_unknown(word, tokenizer)]
    if unknown:
        notes.append(
            f"words that the model may not know: {shorten(', '.join(unknown))}; use the language of its training data"
        )
    ids = tokenizer(sentence, add_special_tokens=False, verbose=False)["input_ids"]
    count = len(ids) + tokenizer.num_special_tokens_to_add()
    if count > tokenizer.model_max_length:
        notes.append(f"the sentence has {count} tokens; the model reads the first {tokenizer.model_max_length}")
    return notes


def shorten(text: str, length: int = 60) -> str:
    """Cuts a text for a message."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _is_unknown(word: str, tokenizer: Any) -> bool:
    """Whether a word has an unknown token, or its parts are split into many pieces."""
    for part in re.split(r"['’-]", word):
        pieces = tokenizer(f" {part}", add_special_tokens=False, verbose=False)["input_ids"]
        if tokenizer.unk_token_id in pieces or len(pieces) > _PIECES_PER_KNOWN_WORD:
            return True
    return False
