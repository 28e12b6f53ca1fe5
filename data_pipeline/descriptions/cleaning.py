"""Removes markup and invisible characters from a model's texts, and finds loops of repeated words."""

import functools
import html
import re
import unicodedata
from collections import Counter

_THINKING = "think(?:ing)?|reason(?:ing)?|reflection|thought|analysis|scratchpad"
_THOUGHTS = re.compile(rf"<({_THINKING})>.*?</\1>", re.DOTALL | re.IGNORECASE)
_UNOPENED = re.compile(rf"^.*</(?:{_THINKING})>", re.DOTALL | re.IGNORECASE)
_SPECIAL_TOKENS = re.compile(
    r"<\|[^<>|]{0,40}\|>|<｜[^<>]{0,40}｜>|</?s>|\[/?INST\]|<(?:start|end)_of_\w+>", re.IGNORECASE
)
_MARKUP = (
    (re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE), " "),
    (re.compile(r"</(li|td|tr|p|div)>\s*<\1\b[^<>]*>", re.IGNORECASE), ", "),
    (re.compile(r"^\s*#{1,6}\s.{0,40}\n(?=\s*\S)", re.MULTILINE), ""),
    (re.compile(r"</?[a-z][\w-]*(?:\s[^<>]{0,300})?/?>|<!doctype[^>]*>", re.IGNORECASE), " "),
    (re.compile(r"^\s*`{3}\w*\s*$|^\s*(?:-{3,}|\*{3,}|_{3,})\s*$", re.MULTILINE), " "),
    (re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)"), r"\1"),  # links and pictures
    (re.compile(r"(?<![.,;:!?])[ \t]*\n+\s*(?:[-*•·+–]|\d{1,2}[.)])\s+(?=\S)"), ", "),  # items of a list
    (re.compile(r"^\s*(?:#{1,6}|>|[-*•·+–]|\d{1,2}[.)])\s+", re.MULTILINE), ""),
    (re.compile(r"(\*{1,3}|_{2,3}|~~|`+)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"[`*~|#]{1,}|_{2,}"), " "),
)
_INVISIBLE = frozenset(("Cc", "Cf", "Co", "Cn", "So", "Sk", "Zl", "Zp"))  # also emoji
_LABEL = re.compile(
    r"^(?:the\s)?(?:identity|clothing|body|clothes|person|answer|assistant|description|caption)(?:[\s_]description)?\s*:\s*",
    re.IGNORECASE,
)
_SHARE_OF_DIFFERENT_WORDS = 0.35


def without_reasoning(content: str) -> str:
    """Removes the reasoning that some models print in tags such as `<think>` before their answer."""
    if "</" not in content:
        return content
    rest = _UNOPENED.sub(" ", _THOUGHTS.sub(" ", content))
    return rest if rest.strip() else content


@functools.lru_cache(maxsize=10_000)  # most fields of attributes repeat between images
def clean_text(text: str) -> tuple[str, bool]:
    """Removes markup, special tokens, control and zero-width characters; returns the text and whether it changed.

    White space is normalized to single spaces, which is no change.
    """
    cleaned = _SPECIAL_TOKENS.sub(" ", _THOUGHTS.sub(" ", html.unescape(text)))
    for pattern, replacement in _MARKUP:
        cleaned = pattern.sub(replacement, cleaned)
    if not (cleaned.isascii() and cleaned.isprintable()):
        characters = (" " if character.isspace() else character for character in cleaned)
        cleaned = "".join(each for each in characters if unicodedata.category(each) not in _INVISIBLE)
        cleaned = re.sub("[\ufffd\ufe0f]", "", cleaned)
    cleaned = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(cleaned.split()))
    cleaned = _LABEL.sub("", cleaned).strip()
    return cleaned, cleaned != " ".join(text.split())


def repeated(text: str) -> str | None:
    """Returns the words that a text repeats in a loop, or None.

    A loop is a word four times in a row, two to eight words three times in a row, a sentence twice, or 20 words of
    which few are different.
    """
    words = re.findall(r"[\w'’-]+", text.lower())
    counts = Counter(words)
    starts = [number for number, word in enumerate(words) if counts[word] >= 3]
    for size in range(1, 9):
        times = 4 if size == 1 else 3
        for start in starts:
            phrase = words[start : start + size]
            if words[start : start + size * times] == phrase * times:
                return " ".join(phrase)
    sentences = [sentence for sentence in re.split(r"[.!?;]+\s*", text.lower()) if len(sentence.split()) > 3]
    if twice := next((sentence for number, sentence in enumerate(sentences) if sentence in sentences[:number]), None):
        return twice
    if len(words) >= 20 and len(set(words)) < _SHARE_OF_DIFFERENT_WORDS * len(words):
        return max(words, key=words.count)
    stuck = re.search(r"([^\W\d_])\1{4,}", text)
    return stuck[0] if stuck else None
