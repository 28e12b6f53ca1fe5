"""What the demo shows, as HTML. Names, captions and other metadata are data: they come out as they stand."""

import html
from collections.abc import Sequence
from typing import Any

from ..gallery import PersonHit, group_by_person
from .pictures import Pictures

_LONGEST_VALUE = 600  # characters of a value in the large view
_CARD_VALUES = 3  # of the metadata on a card
_CARD_LENGTH = 22  # characters of one of these
# Besides HTML's own, what stands for something in the templates of gradio's component.
_SPECIAL = {ord(sign): f"&#{ord(sign)};" for sign in "${}`\\"}


def text(value: Any) -> str:
    """A value as it stands, in an element or in a quoted attribute."""
    return html.escape(str(value)).translate(_SPECIAL)


def header(count: int, model: str) -> str:
    """The top of the page."""
    return (
        "<h1>Find people by a sentence</h1>"
        f"<p class='quiet'>{count:,} images · model {text(model)}<span class='keys'> · <kbd>/</kbd> sentence, "
        "<kbd>Tab</kbd> and arrows through the images, <kbd>Enter</kbd> opens, <kbd>Esc</kbd> closes</span></p>"
    )


def welcome(count: int) -> str:
    """In the place of hits before the first search."""
    return (
        f"<p class='empty'>{count:,} images are ready to be searched.<br>Describe a person above, or give a picture of "
        "one.</p>"
    )


def nothing(where: str) -> str:
    """In the place of hits where a filter leaves none."""
    return f"<p class='empty'>No image fits the filter.<br><code>{text(where)}</code><br>Widen or clear it.</p>"


def status(title: str, picture: str | None, count: int, clothing_weight: float, remark: str | None) -> str:
    """One line above the hits: what was asked for, how, and what the model could not read of it."""
    shown = f"<img src='{picture}' alt='' class='query'>" if picture else ""
    found = "1 image" if count == 1 else f"{count} images"
    note = f"<p class='note'>{text(remark)}</p>" if remark else ""
    return f"{shown}<p><b>{text(title)}</b> · {found} · clothing weight {clothing_weight:.2f}</p>{note}"


def error(message: str) -> str:
    """What was wrong, in the place of the status."""
    return f"<p class='error' role='alert'>{text(message)}</p>"


def grid(hits: Sequence[PersonHit], pictures: Pictures, grouped: bool) -> str:
    """The hits as cards, best first, or person by person."""
    ranks = {hit.row: rank for rank, hit in enumerate(hits, start=1)}
    widest = max((abs(hit.identity_score) + abs(hit.clothing_score) for hit in hits), default=1) or 1
    parts = []
    for group in group_by_person(hits) if grouped else []:
        count = "1 image" if len(group.hits) == 1 else f"{len(group.hits)} images"
        who = "somebody unknown" if group.person_id is None else f"person {text(group.person_id)}"
        parts.append(f"<h2>{who} · {count}</h2>")
        parts += [_card(hit, ranks[hit.row], pictures, widest) for hit in group.hits]
    if not grouped:
        parts = [_card(hit, ranks[hit.row], pictures, widest) for hit in hits]
    return f"<div class='cards'>{''.join(parts)}</div>"


def large(hit: PersonHit, rank: int, picture: str) -> str:
    """One hit as large as it is."""
    return (
        f"<h2>Hit {rank} · {hit.score:.3f}</h2><img class='large' src='{picture}' alt='{text(hit.name)}'>"
        f"{_scores(hit, abs(hit.identity_score) + abs(hit.clothing_score) or 1)}"
    )


def known(hit: PersonHit) -> str:
    """All that the index says of a hit."""
    rows = {"file": hit.name, **hit.metadata}
    told = "".join(
        f"<dt>{text(name)}</dt><dd>{_value(value)}</dd>" for name, value in rows.items() if value not in (None, [], "")
    )
    return f"<dl>{told}</dl>"


def maps(pictures: tuple[str, str] | None) -> str:
    """Where the model finds what was asked for; None while it looks."""
    if pictures is None:
        return "<p class='quiet' id='looking'>Looking where it fits …</p>"
    figures = "".join(
        f"<figure><img src='{picture}' alt='where the {name} fits'><figcaption>{name}</figcaption></figure>"
        for picture, name in zip(pictures, ("body", "clothes"), strict=True)
    )
    return (
        f"<h3>Where it fits</h3><div class='maps'>{figures}</div>"
        "<p class='quiet'>Bright: without this place, the image would fit less.</p>"
    )


def _card(hit: PersonHit, rank: int, pictures: Pictures, widest: float) -> str:
    picture = pictures.thumbnail(hit.row)
    image = f"<img src='{picture}' alt=''>" if picture else "<span class='gone'>the file is gone</span>"
    known = [
        f"{name.removesuffix('_id')} {value}"
        for name, value in hit.metadata.items()
        if value is not None and value != -1 and not isinstance(value, list) and len(str(value)) <= _CARD_LENGTH
    ]
    told = " · ".join(known[:_CARD_VALUES]) or hit.name
    label = f"hit {rank}, score {hit.score:.3f}, {told}"
    return (
        f"<button type='button' class='card' data-row='{hit.row}' aria-label='{text(label)}'>"
        f"<span class='top'><span>{rank}</span><span>{hit.score:.3f}</span></span><span class='picture'>{image}</span>"
        f"{_scores(hit, widest)}<span class='told'>{text(told)}</span></button>"
    )


def _scores(hit: PersonHit, widest: float) -> str:
    """Two bars, and the numbers that they stand for, without -0.00; less than 0 is hatched."""
    parts = (("body", hit.identity_score), ("clothes", hit.clothing_score))
    bars = "".join(
        f"<span class='{name}{' minus' if score < 0 else ''}' style='width:{100 * abs(score) / widest:.1f}%'></span>"
        for name, score in parts
    )
    numbers = "".join(f"<span class='{name}-number'>{name} {round(score, 2) + 0.0:.2f}</span>" for name, score in parts)
    return f"<span class='bar' aria-hidden='true'>{bars}</span><span class='numbers'>{numbers}</span>"


def _value(value: Any) -> str:
    """A value, a list of them as lines; very long ones are cut."""
    lines = [str(line) for line in (value if isinstance(value, list) else [value])]
    return "<br>".join(text(line if len(line) <= _LONGEST_VALUE else line[:_LONGEST_VALUE] + "…") for line in lines)
