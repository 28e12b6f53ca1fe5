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
"""From the exemplars and the neutral captions of every style to its name."""

_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|(?:wear|carrie|show|stand|walk|see)s|(?:wear|carry|walk)ing)\b"
)
_MOST_LETTERS = 60


def names_by_rules(exemplars: Sequence[Sequence[str]], neutral: Sequence[Sequence[str]]) -> list[str]:
    """Names such as `short list, "person, something"`: length, form, and how most captions of the style open."""
    return _told_apart([_rule_name(texts, wordings) for texts, wordings in zip(exemplars, neutral, strict=True)])


def names_by_model(ask: TextTask) -> StyleNamer:
    """Names that a language model gives under `name_style.txt`; where its answer cannot be used, those of the rules."""

    def name(exemplars: Sequence[Sequence[str]], neutral: Sequence[Sequence[str]]) -> list[str]:
        fallback = [_rule_name(texts, wordings) for texts, wordings in zip(exemplars, neutral, strict=True)]
        answers = ask([json.dumps(list(texts), ensure_ascii=False) for texts in exemplars])
        if len(answers) != len(exemplars):
            raise ValueError(f"naming styles: {len(exemplars)} were sent, {len(answers)} answers came back")
        tidy = [answer.strip().strip(".\"'").strip() for answer in answers]
        return _told_apart([given if _is_usable(given) else rule for given, rule in zip(tidy, fallback, strict=True)])

    return name


def _rule_name(exemplars: Sequence[str], neutral: Sequence[str]) -> str:
    words = median(len(text.split()) for text in exemplars)
    length = "short" if words < 12 else "medium" if words < 25 else "long"
    if median(len(re.findall(r"[.!?](?:\s|$)", text)) for text in neutral) >= 2:
        form = "sentences"
    elif _most(neutral, _VERB):
        form = "sentence"
    else:
        form = "list" if _most(neutral, re.compile("[,;/]")) else "phrase"
    opening = Counter(" ".join(text.split()[:4]).rstrip(".,;:") for text in neutral).most_common(1)[0][0]
    return f"{length} {form}, “{opening}”"


def _most(texts: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Whether the pattern is in at least half of the texts."""
    return 2 * sum(pattern.search(text) is not None for text in texts) >= len(texts)


def _is_usable(name: str) -> bool:
    return 0 < len(name) <= _MOST_LETTERS and "\n" not in name and not refusal_words(name)


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, with a number where one came before."""
    apart: list[str] = []
    for name in names:
        numbered = (name if number == 1 else f"{name} ({number})" for number in count(1))
        apart.append(next(candidate for candidate in numbered if candidate not in apart))
    return apart
