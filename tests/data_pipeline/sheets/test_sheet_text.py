"""Line wrapping and font selection for any script."""

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure

from data_pipeline.sheets import sheet_text
from data_pipeline.sheets.sheet_text import DEFAULT_FONT, font_families_for, font_for, wrap_text

CHINESE = "一个穿着红色外套的男人"


def write_font(file: Path, letters: str) -> Path:
    """Writes a font with a square for each letter."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf({name: square for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": f"Squares {file.stem}", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1000, usWinAscent=1000)
    builder.setupPost()
    builder.save(file)
    return file


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Installed fonts: one with all letters of the Chinese caption, one with some, and a damaged file."""
    fonts = {
        "part": write_font(tmp_path / "a.ttf", CHINESE[:3]),
        "whole": write_font(tmp_path / "b.ttf", "".join(dict.fromkeys(CHINESE))),
    }
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    files = (tmp_path / "broken.ttf", *fonts.values())
    monkeypatch.setattr(sheet_text, "_installed_fonts", lambda: files)
    return fonts


def test_font_for_returns_the_font_with_most_letters(installed: dict[str, Path]) -> None:
    assert font_for(CHINESE) == installed["whole"]
    assert font_for(CHINESE[:2]) == installed["part"]
    assert font_for("a man in a “red” coat, 2 × ✓") == DEFAULT_FONT
    assert font_for("") == DEFAULT_FONT
    assert font_for("แดง") == DEFAULT_FONT  # in no font
    assert font_families_for("แดง") == ["DejaVu Sans"]


def test_font_families_for_have_all_letters(installed: dict[str, Path], recwarn: pytest.WarningsRecorder) -> None:
    assert font_families_for("red coat") == ["DejaVu Sans"]
    families = font_families_for(f"red {CHINESE}")
    assert families == ["DejaVu Sans", "Squares b"]
    figure = Figure()
    figure.text(0, 0, f"red {CHINESE}", fontfamily=families)
    figure.canvas.draw()
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]


def test_wrap_text_counts_wide_letters_twice() -> None:
    assert wrap_text(CHINESE, 8) == [CHINESE[:4], CHINESE[4:8], CHINESE[8:]]
    assert wrap_text("a red coat and a hat", 10) == ["a red coat", "and a hat"]
    assert wrap_text("赤い coat", 20) == ["赤い coat"]
    lines = wrap_text("long " * 50, 20, max_lines=3)
    assert len(lines) == 3 and lines[-1].endswith(" …") and all(len(line) <= 20 for line in lines)
