"""Text on sheets in any script: line wrapping, and a font that contains the letters."""

import logging
import re
import textwrap
import unicodedata
import warnings
from functools import cache
from pathlib import Path

from matplotlib import get_data_path
from matplotlib.font_manager import findSystemFonts, fontManager, get_font

logger = logging.getLogger(__name__)

DEFAULT_FAMILY = "DejaVu Sans"
DEFAULT_FONT = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_missing_reported = False
# matplotlib warns of each letter; `font_families_for` logs one line instead
warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
_ODD_STYLE = re.compile(r"bold|black|heavy|medium|light|thin|italic|oblique|condensed|mono|serif|emoji", re.IGNORECASE)


def wrap_text(text: str, columns: int, max_lines: int | None = None) -> list[str]:
    """Wraps text to `columns` letters per line; Chinese, Japanese and Korean characters are as wide as two letters.

    Text of more than `max_lines` is cut, with an ellipsis.
    """
    doubled = "".join(f"{letter}\0" if _is_wide(letter) else letter for letter in text)
    lines = textwrap.wrap(doubled, columns, max_lines=max_lines, placeholder=" …")
    return [line.replace("\0", "") for line in lines]


def font_for(text: str) -> Path:
    """Returns the font file with most letters of a text: the default font of matplotlib, or an installed font."""
    missing = _visible(text) - _letters(DEFAULT_FONT)
    if not missing:
        return DEFAULT_FONT
    best, best_count = DEFAULT_FONT, len(_visible(text)) - len(missing)
    for font in _installed_fonts():
        count = len(_visible(text) & _letters(font))
        if count > best_count:
            best, best_count = font, count
    return best


def font_families_for(text: str) -> list[str]:
    """Returns the font families for a text: the default of matplotlib, then one for the letters that it lacks."""
    missing = "".join(_visible(text) - _letters(DEFAULT_FONT))
    font = font_for(missing)
    if lacking := set(missing) - _letters(font):
        _report_missing(lacking)
    if not missing or font == DEFAULT_FONT:
        return [DEFAULT_FAMILY]
    family = get_font(font).family_name
    if family not in fontManager.get_font_names():
        fontManager.addfont(font)  # not in matplotlib's cached list
    return [DEFAULT_FAMILY, family]


def _report_missing(letters: set[str]) -> None:
    """Logs letters that are in no installed font, once per process."""
    global _missing_reported
    if not _missing_reported:
        _missing_reported = True
        shown = "".join(sorted(letters)[:10])
        logger.warning(f"no installed font has the letters {shown}: install one that has, such as Noto Sans CJK")


def _visible(text: str) -> set[str]:
    return {letter for letter in text if not letter.isspace() and letter.isprintable()}


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF"


@cache
def _installed_fonts() -> tuple[Path, ...]:
    """Lists the font files of the system, upright ones of normal weight first."""
    files = [Path(file) for file in findSystemFonts()]
    return tuple(sorted(files, key=lambda file: (bool(_ODD_STYLE.search(file.stem)), file.name)))


@cache
def _letters(font: Path) -> set[str]:
    """Returns the letters of a font file; none if it is unreadable."""
    try:
        return set(map(chr, get_font(font).get_charmap()))
    except (OSError, RuntimeError):
        return set()
