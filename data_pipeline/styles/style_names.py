"""Names of styles, by rules or by a language model."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median

from ..descriptions.lexicon import refusal_words
from .neutralize_model import TextTask

StyleNamer = Callable[[Sequence[Sequence[str]], Sequence[Sequence[str]]], list[str]]
"""Maps the exemplars and the neutral captions of each style to its name."""

_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|(?:wear|carrie|show|stand|walk|see)s|(?:wear|carry|walk)ing)\b"
)
_MAX_LETTERS = 60


def names_by_rules(exemplars: Sequence[Sequence[str]], neutral: Sequence[Sequence[str]]) -> list[str]:
    """Names styles by length, form and most frequent opening, as in `short list, "person, something"`."""
    return _make_unique([_rule_name(texts, wordings) for texts, wordings in zip(exemplars, neutral, strict=True)])


def names_by_model(ask: TextTask) -> StyleNamer:
    """Returns a namer that asks a language model under `name_style.txt`; unusable answers fall back to the rules."""

    def name(exemplars: Sequence[Sequence[str]], neutral: Sequence[Sequence[str]]) -> list[str]:
        answers = ask([json.dumps(list(texts), ensure_ascii=False) for texts in exemplars])
        if len(answers) != len(exemplars):
            raise ValueError(f"naming styles: got {len(answers)} answers for {len(exemplars)} styles")
        names = []
        for answer, texts, wordings in zip(answers, exemplars, neutral, strict=True):
            tidy = answer.strip().strip(".\"'").strip()
            usable = 0 < len(tidy) <= _MAX_LETTERS and "\n" not in tidy and not refusal_words(tidy)
            names.append(tidy if usable else _rule_name(texts, wordings))
        return _make_unique(names)

    return name


def _rule_name(exemplars: Sequence[str], neutral: Sequence[str]) -> str:
    words = median(len(text.split()) for text in exemplars)
    length = "short" if words < 12 else "medium" if words < 25 else "long"
    if median(len(re.findall(r"[.!?](?:\s|$)", text)) for text in neutral) >= 2:
        form = "sentences"
    elif _in_most(neutral, _VERB):
        form = "sentence"
    else:
        form = "list" if _in_most(neutral, re.compile("[,;/]")) else "phrase"
    opening = Counter(" ".join(text.split()[:4]).rstrip(".,;:") for text in neutral).most_common(1)[0][0]
    return f"{length} {form}, “{opening}”"


def _in_most(texts: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Whether the pattern occurs in at least half of the texts."""
    return 2 * sum(pattern.search(text) is not None for text in texts) >= len(texts)


def _make_unique(names: Sequence[str]) -> list[str]:
    """Appends a number to repeated names."""
    unique: list[str] = []
    for name in names:
        numbered = (name if number == 1 else f"{name} ({number})" for number in count(1))
        unique.append(next(candidate for candidate in numbered if candidate not in unique))
    return unique
