"""HTML of the demo page. All names, captions and metadata values are escaped (no cross-site scripting)."""

import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..hits import PersonHit, group_by_person, likelihood_in_words
from .pictures import Pictures
from .sources import Source

_LONGEST_VALUE = 600  # characters of a value in the detail view
_CARD_VALUES = 3  # metadata values on a card, besides camera and time
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
        "<kbd>Tab</kbd> and arrows through the images, <kbd>Enter</kbd> opens, <kbd>v</kbd> plays the video, "
        "<kbd>k</kbd> keeps, <kbd>r</kbd> right, <kbd>w</kbd> wrong, <kbd>n</kbd> and <kbd>p</kbd> turn the page, "
        "<kbd>Esc</kbd> closes</span></p>"
    )


def welcome(count: int) -> str:
    """Returns the placeholder before the first search."""
    return (
        f"<p class='empty'>{count:,} images are ready to be searched.<br>Describe a person above, or upload a picture."
        "</p>"
    )


def no_hits() -> str:
    """Returns the message for filters that match no image; the status line names the filters."""
    return "<p class='empty'>No image matches the filter.<br>Widen or clear it.</p>"


def place(address: str, turn: int, push: bool) -> str:
    """Returns an invisible element with the address of the shown search, which page.js adds to the history."""
    return f"<span hidden data-address='{text(address)}' data-turn='{turn}' data-push='{int(push)}'></span>"


def status(title: str, picture: str | None, shown: Sequence[str], filters: Sequence[str], notes: Sequence[str]) -> str:
    """Returns the lines above the hits: the query, facts on the shown hits, the active filters, and notes."""
    image = f"<img src='{picture}' alt='query picture' class='query'>" if picture else ""
    back = "<button type='button' class='back'>← Back</button>" if picture else ""
    lines = [f"<p>{back} <b>{text(title)}</b> · {text(' · '.join(shown))}</p>"]
    if filters:
        named = " · ".join(f"<code>{text(_cut(words))}</code>" for words in filters)
        clear = "<button type='button' class='clear'>Clear filters</button>"
        lines.append(f"<p class='active'>Filter: {named} {clear}</p>")
    return image + "".join(lines) + "".join(f"<p class='note'>{text(note)}</p>" for note in notes)


def error(message: str) -> str:
    """Returns an error message."""
    return f"<p class='error'>{text(message)}</p>"


def images(count: int) -> str:
    """Returns a number of images in words."""
    return "1 image" if count == 1 else f"{count:,} images"


def grid(
    hits: Sequence[PersonHit],
    pictures: Pictures,
    grouped: bool,
    columns: Sequence[str],
    first_rank: int = 1,
) -> str:
    """Returns the hits as cards, best first, optionally grouped by person, below a legend of the score.

    Args:
        columns: metadata columns that each card shows in full, such as camera and time.
        first_rank: rank of the first hit, above 1 on later pages.
    """
    ranks = {hit.row: rank for rank, hit in enumerate(hits, start=first_rank)}
    widest = max((abs(hit.identity_score) + abs(hit.clothing_score) for hit in hits), default=1) or 1

    def card(hit: PersonHit) -> str:
        return _card(hit, ranks[hit.row], pictures.thumbnail(hit.path), widest, columns)

    parts = []
    for group in group_by_person(hits) if grouped else []:
        person = "unknown person" if group.person_id is None else f"person {text(group.person_id)}"
        parts.append(f"<h2>{person} · {images(len(group.hits))}</h2>")
        parts += map(card, group.hits)
    legend = _LIKELIHOOD if any(hit.likelihood is not None for hit in hits) else _LEGEND
    if any(hit.match_score for hit in hits):
        legend = legend.replace("clothes:", "clothes + detail:")
    return f"{legend}<div class='cards'>{''.join(parts or map(card, hits))}</div>"


_LEGEND = (
    "<p class='quiet legend'>Score = <span class='swatch body'></span> body + <span class='swatch clothes'></span> "
    "clothes: the similarity to the query. Higher is more similar; it is not a probability. Hatched: below 0.</p>"
)


_LIKELIHOOD = (
    "<p class='quiet legend'>Per cent: how likely this is the person, if the person is in this gallery. Bars: "
    "similarity of <span class='swatch body'></span> body and <span class='swatch clothes'></span> clothes; open an "
    "image for the numbers. Hatched: below 0.</p>"
)


def _rating(hit: PersonHit) -> str:
    """Returns the likelihood of a hit in words and per cent, or the score of one without a likelihood."""
    return f"{hit.score:.3f}" if hit.likelihood is None else likelihood_in_words(hit.likelihood)


def large(hit: PersonHit, rank: int, picture: str) -> str:
    """Returns one hit in full size, with its scores and buttons for the hits before and after it."""
    turns = "".join(
        f"<button type='button' class='turn' data-step='{step}' aria-label='{word} image'>{sign}</button>"
        for step, word, sign in ((-1, "previous", "‹"), (1, "next", "›"))
    )
    return (
        f"<div class='heading'><h2>Hit {rank} · {text(_rating(hit))}</h2>{turns}</div>"
        f"<img class='large' src='{picture}' alt='{text(hit.name)}'>"
        f"{_scores(hit, abs(hit.identity_score) + abs(hit.clothing_score) or 1)}"
    )


def details(hit: PersonHit) -> str:
    """Returns file name and metadata of a hit; lists are one value per line, long values are cut."""
    entries = []
    for name, value in [("file", hit.name), ("equal files", list(hit.copies)), *hit.metadata.items()]:
        if value not in (None, [], ""):
            lines = [_cut(str(line)) for line in (value if isinstance(value, list) else [value])]
            entries.append(f"<dt>{text(name)}</dt><dd>{'<br>'.join(map(text, lines))}</dd>")
    return f"<dl>{''.join(entries)}</dl>"


def source(found: Source | None) -> str:
    """Returns the frame of a hit with its box, and the seconds of the video around it; "" for None."""
    if found is None:
        return ""
    when = "" if found.seconds is None else f" at {clock(found.seconds)}"
    name = text(found.name + when)
    parts = ["<h3>Where it was seen</h3>"]
    if found.frame:
        parts.append(f"<img class='frame' src='{found.frame}' alt='frame of {name}, with a box around the person'>")
    if found.clip:
        parts.append(
            f"<video controls muted playsinline preload='metadata' src='{text(found.clip)}' "
            f"aria-label='video {text(found.name)}, the seconds around the image'></video>"
            "<p class='note unplayable' hidden>This browser cannot play the video: its codec is unknown, or the file "
            "is gone.</p>"
        )
    note = f"<p class='note'>{text(found.note)}</p>" if found.note else ""
    return "".join([*parts, f"<p class='quiet'>{name}</p>", note])


def clock(seconds: float) -> str:
    """Returns a time in a video, such as 1:02:03.4."""
    minutes, rest = divmod(round(max(0.0, seconds), 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def marks(marked: Mapping[str, bool], acting: Mapping[str, bool]) -> str:
    """Returns the number of marked images, with buttons that search by them and clear them; "" without any."""
    if not marked and not acting:
        return ""
    news = "" if dict(marked) == dict(acting) else " · not yet searched"
    state = json.dumps({name: "right" if is_right else "wrong" for name, is_right in marked.items()})
    return (
        f"<p data-marks='{text(state)}'>Marks: {marks_in_words(marked)}{news}</p>"
        "<button type='button' name='apply'>Search again with marks</button>"
        "<button type='button' name='clear'>Clear marks</button>"
    )


def marks_in_words(marked: Mapping[str, bool]) -> str:
    """Returns the numbers of right and wrong marks."""
    right = sum(marked.values())
    return f"{right} right, {len(marked) - right} wrong"


def saved(index: Path) -> str:
    """Returns the empty list of saved searches, which saved.js fills for this index."""
    key = hashlib.sha256(os.fsencode(index.absolute())).hexdigest()[:12]
    return (
        f"<form data-index='{key}'><label>Name of the shown search<input type='text' maxlength='80' required "
        "autocomplete='off'></label><button type='submit'>Save</button></form><output></output><ul></ul>"
        "<p class='quiet'>Sentence, filters, settings and marks are kept in this browser only.</p>"
    )


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


def tray(hits: Sequence[PersonHit], pictures: Pictures) -> str:
    """Returns the kept images, each with a button that removes it; "" without any."""
    if not hits:
        return ""
    kept = []
    for hit in hits:
        picture = pictures.thumbnail(hit.path)
        image = f"<img src='{picture}' alt=''>" if picture else "<span class='missing'>missing</span>"
        label = text(f"remove {hit.name} from the kept images")
        kept.append(
            f"<button type='button' class='drop' data-name='{text(hit.name)}' aria-label='{label}'>{image}✕</button>"
        )
    return f"<h2>Kept: {images(len(hits))}</h2><div class='tray'>{''.join(kept)}</div>"


def _card(hit: PersonHit, rank: int, picture: str | None, widest: float, columns: Sequence[str]) -> str:
    image = f"<img src='{picture}' alt=''>" if picture else "<span class='missing'>the file is missing</span>"
    known = {name: value for name, value in hit.metadata.items() if value is not None and value != -1}
    facts = [_fact(name, known[name]) for name in columns if name in known]
    others = [
        _fact(name, value)
        for name, value in known.items()
        if name not in columns and not isinstance(value, list) and len(str(value)) <= _CARD_LENGTH
    ][:_CARD_VALUES]
    copies = [f"{len(hit.copies) + 1} equal files"] if hit.copies else []
    caption = [*(facts + others or [hit.name]), *copies]
    label = f"hit {rank}, {'score ' if hit.likelihood is None else ''}{_rating(hit)}, {', '.join(caption)}"
    lines = [f"<span class='fact'>{text(fact)}</span>" for fact in caption]
    return (
        f"<div class='cell'><button type='button' class='card' data-row='{hit.row}' aria-label='{text(label)}' "
        "aria-haspopup='dialog' aria-expanded='false'>"
        f"<span class='top'><span>{rank}</span><span>{text(_rating(hit))}</span></span>"
        f"<span class='picture'>{image}</span>{_scores(hit, widest, with_numbers=hit.likelihood is None)}"
        f"<span class='caption'>{''.join(lines)}</span></button>"
        f"<div class='actions'><label class='keep'><input type='checkbox' data-row='{hit.row}' "
        f"data-name='{text(hit.name)}'> Keep<span class='sr'> hit {rank}</span></label>{_marks(hit, rank)}</div></div>"
    )


def _marks(hit: PersonHit, rank: int) -> str:
    return "".join(
        f"<button type='button' class='mark' data-mark='{mark}' data-row='{hit.row}' data-name='{text(hit.name)}' "
        f"aria-pressed='false' aria-label='hit {rank} is {mark}' title='{mark} person: {key}'>{sign}</button>"
        for mark, sign, key in (("right", "✓", "r"), ("wrong", "✗", "w"))
    )


def _fact(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        value = f"{value:%Y-%m-%d %H:%M:%S %Z}".strip()
    return f"{name.removesuffix('_id')} {value}"


def _scores(hit: PersonHit, widest: float, with_numbers: bool = True) -> str:
    """Two bars with their numbers; a negative score is hatched, and -0.00 is printed as 0.00."""
    bars, numbers = "", ""
    for name, score in (("body", hit.identity_score), ("clothes", hit.clothing_score)):
        minus = " minus" if score < 0 else ""
        bars += f"<span class='{name}{minus}' style='width:{100 * abs(score) / widest:.1f}%'></span>"
        numbers += f"<span class='{name}-number'>{name} {round(score, 2) + 0.0:.2f}</span>"
    if hit.match_score:
        numbers += f"<span class='match-number'>detail {hit.match_score:+.2f}</span>"
    bar = f"<span class='bar' aria-hidden='true'>{bars}</span>"
    return f"{bar}<span class='numbers'>{numbers}</span>" if with_numbers else bar


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_VALUE else line[:_LONGEST_VALUE] + "…"
