"""HTML of the demo page. All names, captions and metadata values are escaped (no cross-site scripting)."""

import html
from collections.abc import Sequence
from typing import Any

from ..gallery import PersonHit, group_by_person
from .pictures import Pictures

_LONGEST_VALUE = 600  # characters of a value in the detail view
_CARD_VALUES = 3  # metadata values on a card
_CARD_LENGTH = 22  # characters of each
# Characters with a meaning in the JavaScript templates of gradio's HTML component
_SPECIAL = {ord(sign): f"&#{ord(sign)};" for sign in "${}`\\"}


def text(value: Any) -> str:
    """Escapes a value for an element or for a quoted attribute."""
    return html.escape(str(value)).translate(_SPECIAL)


def header(count: int, model: str) -> str:
    """Returns the page header."""
    return (
        "<h1>Find people by a sentence</h1>"
        f"<p class='quiet'>{count:,} images · model {text(model)}<span class='keys'> · <kbd>/</kbd> sentence, "
        "<kbd>Tab</kbd> and arrows through the images, <kbd>Enter</kbd> opens, <kbd>Esc</kbd> closes</span></p>"
    )


def welcome(count: int) -> str:
    """Returns the placeholder before the first search."""
    return (
        f"<p class='empty'>{count:,} images are ready to be searched.<br>Describe a person above, or upload a picture."
        "</p>"
    )


def no_hits(where: str) -> str:
    """Returns the message for a filter that matches no image."""
    return f"<p class='empty'>No image matches the filter.<br><code>{text(where)}</code><br>Widen or clear it.</p>"


def status(title: str, picture: str | None, count: int, clothing_weight: float, remark: str | None) -> str:
    """Returns the line above the hits: the query, the number of hits, β, and words that the model cannot read."""
    shown = f"<img src='{picture}' alt='' class='query'>" if picture else ""
    note = f"<p class='note'>{text(remark)}</p>" if remark else ""
    return f"{shown}<p><b>{text(title)}</b> · {_images(count)} · clothing weight {clothing_weight:.2f}</p>{note}"


def error(message: str) -> str:
    """Returns an error message for the status line."""
    return f"<p class='error' role='alert'>{text(message)}</p>"


def grid(hits: Sequence[PersonHit], pictures: Pictures, grouped: bool) -> str:
    """Returns the hits as cards, best first, optionally grouped by person."""
    ranks = {hit.row: rank for rank, hit in enumerate(hits, start=1)}
    widest = max((abs(hit.identity_score) + abs(hit.clothing_score) for hit in hits), default=1) or 1
    parts = []
    for group in group_by_person(hits) if grouped else []:
        person = "unknown person" if group.person_id is None else f"person {text(group.person_id)}"
        parts.append(f"<h2>{person} · {_images(len(group.hits))}</h2>")
        parts += [_card(hit, ranks[hit.row], pictures, widest) for hit in group.hits]
    if not grouped:
        parts = [_card(hit, ranks[hit.row], pictures, widest) for hit in hits]
    return f"<div class='cards'>{''.join(parts)}</div>"


def large(hit: PersonHit, rank: int, picture: str) -> str:
    """Returns one hit in full size, with its scores."""
    return (
        f"<h2>Hit {rank} · {hit.score:.3f}</h2><img class='large' src='{picture}' alt='{text(hit.name)}'>"
        f"{_scores(hit, abs(hit.identity_score) + abs(hit.clothing_score) or 1)}"
    )


def details(hit: PersonHit) -> str:
    """Returns file name and metadata of a hit; lists are one value per line, long values are cut."""
    entries = []
    for name, value in [("file", hit.name), *hit.metadata.items()]:
        if value not in (None, [], ""):
            lines = [_cut(str(line)) for line in (value if isinstance(value, list) else [value])]
            entries.append(f"<dt>{text(name)}</dt><dd>{'<br>'.join(map(text, lines))}</dd>")
    return f"<dl>{''.join(entries)}</dl>"


def maps(pictures: tuple[str, str] | None) -> str:
    """Returns the occlusion maps of body and clothes, or a placeholder (None) while they are computed."""
    if pictures is None:
        return "<p class='quiet' id='looking'>Computing the occlusion maps …</p>"
    figures = "".join(
        f"<figure><img src='{picture}' alt='occlusion map of the {name}'><figcaption>{name}</figcaption></figure>"
        for picture, name in zip(pictures, ("body", "clothes"), strict=True)
    )
    return (
        f"<h3>Where it matches</h3><div class='maps'>{figures}</div>"
        "<p class='quiet'>Bright: masking this region lowers the similarity.</p>"
    )


def _card(hit: PersonHit, rank: int, pictures: Pictures, widest: float) -> str:
    picture = pictures.thumbnail(hit.row)
    image = f"<img src='{picture}' alt=''>" if picture else "<span class='missing'>the file is missing</span>"
    values = [
        f"{name.removesuffix('_id')} {value}"
        for name, value in hit.metadata.items()
        if value is not None and value != -1 and not isinstance(value, list) and len(str(value)) <= _CARD_LENGTH
    ]
    caption = " · ".join(values[:_CARD_VALUES]) or hit.name
    label = f"hit {rank}, score {hit.score:.3f}, {caption}"
    return (
        f"<button type='button' class='card' data-row='{hit.row}' aria-label='{text(label)}'>"
        f"<span class='top'><span>{rank}</span><span>{hit.score:.3f}</span></span><span class='picture'>{image}</span>"
        f"{_scores(hit, widest)}<span class='caption'>{text(caption)}</span></button>"
    )


def _scores(hit: PersonHit, widest: float) -> str:
    """Two bars with their numbers; a negative score is hatched, and -0.00 is printed as 0.00."""
    bars, numbers = "", ""
    for name, score in (("body", hit.identity_score), ("clothes", hit.clothing_score)):
        minus = " minus" if score < 0 else ""
        bars += f"<span class='{name}{minus}' style='width:{100 * abs(score) / widest:.1f}%'></span>"
        numbers += f"<span class='{name}-number'>{name} {round(score, 2) + 0.0:.2f}</span>"
    return f"<span class='bar' aria-hidden='true'>{bars}</span><span class='numbers'>{numbers}</span>"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_VALUE else line[:_LONGEST_VALUE] + "…"
