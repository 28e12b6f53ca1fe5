"""Neutral captions written by a language model, checked one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..descriptions.lexicon import refusal_words
from .neutralize import neutralize, telling_words

TextTask = Callable[[list[str]], list[str]]
"""From texts to what a language model made of each under one instruction; "" where it made nothing."""


@dataclass(frozen=True)
class NeutralCaptions:
    """Neutral captions, and how many of them the rules had to write because the model's could not be used."""

    texts: list[str]
    by_rules: int


def neutralize_by_model(captions: Sequence[str], ask: TextTask) -> NeutralCaptions:
    """Neutral captions by a language model under `neutralize_captions.txt`. Equal captions are asked for once.

    An unusable answer (nothing, a refusal, several lines, much longer or shorter than the caption, or more than a third
    of the telling words still in it) is replaced by what the rules write.

    Raises:
        ValueError: the model gave another number of answers than there were captions.
    """
    distinct = list(dict.fromkeys(captions))
    answers = ask(distinct)
    if len(answers) != len(distinct):
        raise ValueError(f"neutralising: {len(distinct)} captions were sent, {len(answers)} answers came back")
    neutral = {caption: answer.strip() for caption, answer in zip(distinct, answers, strict=True)}
    unusable = {caption for caption, answer in neutral.items() if not _is_usable(caption, answer)}
    texts = [neutralize(caption) if caption in unusable else neutral[caption] for caption in captions]
    return NeutralCaptions(texts, sum(caption in unusable for caption in captions))


def _is_usable(caption: str, answer: str) -> bool:
    if not answer or "\n" in answer or refusal_words(answer):
        return False
    words = len(caption.split())
    if not 0.1 * words <= len(answer.split()) <= 1.5 * words + 8:
        return False
    told = telling_words(caption)
    return len(told & telling_words(answer)) <= len(told) / 3
