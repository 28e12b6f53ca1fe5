"""Neutralizes captions by a language model, with a check of each answer."""

from collections.abc import Callable, Sequence

from ..descriptions.lexicon import refusal_words
from .neutralize import descriptive_words, neutralize

TextTask = Callable[[list[str]], list[str]]
"""Maps texts to a language model's answers under one instruction; "" where it gave no usable answer."""


def neutralize_by_model(captions: Sequence[str], ask: TextTask) -> tuple[list[str], int]:
    """Neutralizes captions by a language model under `neutralize_captions.txt`; equal captions share a request.

    Returns the neutral captions and the number of them written by the rules, the fallback for an unusable answer: an
    empty one, a refusal, several lines, a very different length, or more than a third of the descriptive words left.

    Raises:
        ValueError: the number of answers differs from the number of captions.
    """
    distinct = list(dict.fromkeys(captions))
    answers = ask(distinct)
    if len(answers) != len(distinct):
        raise ValueError(f"neutralizing: got {len(answers)} answers for {len(distinct)} captions")
    neutral = {caption: answer.strip() for caption, answer in zip(distinct, answers, strict=True)}
    unusable = {caption for caption, answer in neutral.items() if not _is_usable(caption, answer)}
    texts = [neutralize(caption) if caption in unusable else neutral[caption] for caption in captions]
    return texts, sum(caption in unusable for caption in captions)


def _is_usable(caption: str, answer: str) -> bool:
    if not answer or "\n" in answer or refusal_words(answer):
        return False
    words = len(caption.split())
    if not 0.1 * words <= len(answer.split()) <= 1.5 * words + 8:
        return False
    descriptive = descriptive_words(caption)
    return len(descriptive & descriptive_words(answer)) <= len(descriptive) / 3
