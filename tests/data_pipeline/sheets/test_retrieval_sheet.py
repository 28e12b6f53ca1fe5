"""Retrieval sheets, read from their pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from data_pipeline.sheets.retrieval_sheet import RIGHT, WRONG, retrieval_sheet


def arguments(hits: list[list[bool]]) -> dict[str, Any]:
    """Returns grey images and short captions for rows of correct and wrong results."""
    image = Image.new("RGB", (20, 40), "grey")
    return {
        "queries": [f"a person in grey, number {row}" for row in range(len(hits))],
        "results": [[image] * len(row) for row in hits],
        "correct": hits,
    }


def mask(path: Path, color: str) -> np.ndarray:
    with Image.open(path) as sheet:
        return (np.asarray(sheet.convert("RGB")) == ImageColor.getrgb(color)).all(axis=-1)


def pixels(path: Path, color: str) -> int:
    return int(mask(path, color).sum())


def test_retrieval_sheet_frames_correct_and_wrong_results(tmp_path: Path) -> None:
    right = retrieval_sheet(tmp_path / "right.png", **arguments([[True] * 4]))
    mixed = retrieval_sheet(tmp_path / "mixed.png", **arguments([[True, False, False, False]]))
    wrong = retrieval_sheet(tmp_path / "wrong.png", **arguments([[False] * 4]))
    # The legend has the same colors on each sheet, so the difference between sheets counts the frames
    frame = (pixels(right, RIGHT) - pixels(wrong, RIGHT)) / 4
    assert frame > 1000
    assert pixels(mixed, RIGHT) - pixels(wrong, RIGHT) == pytest.approx(frame, rel=0.05)
    assert pixels(mixed, WRONG) - pixels(right, WRONG) == pytest.approx(3 * frame, rel=0.05)


def test_retrieval_sheet_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    wide = arguments([[True]]) | {"results": [[Image.new("RGB", (90, 30), "#ff00ff")]]}
    rows, columns = mask(retrieval_sheet(tmp_path / "sheet.png", **wide), "#ff00ff").nonzero()
    width, height = np.ptp(columns), np.ptp(rows)
    assert height > 20
    assert width / height == pytest.approx(3, rel=0.15)  # the frame covers some of both sides


def test_retrieval_sheet_applies_exif_rotation_and_bit_depth(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6  # rotated
    Image.new("RGB", (2700, 900), "#ff00ff").save(tmp_path / "rotated.png", exif=tags)
    Image.fromarray(np.full((30, 20), 30_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    files = [{"path": str(tmp_path / name), "bytes": None} for name in ("rotated.png", "deep.png")]
    sheet = retrieval_sheet(tmp_path / "sheet.png", **arguments([[True, True]]) | {"results": [files]})
    rows, columns = mask(sheet, "#ff00ff").nonzero()
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(3, rel=0.15)
    assert mask(sheet, "#757575").sum() > 1000  # round(30_000 / 257) = 0x75


def test_retrieval_sheet_draws_the_described_image(tmp_path: Path) -> None:
    apart = arguments([[True, False]]) | {"query_images": [Image.new("RGB", (20, 40), "#00ffff")]}
    assert pixels(retrieval_sheet(tmp_path / "with.png", **apart), "#00ffff") > 1000
    assert pixels(retrieval_sheet(tmp_path / "without.png", **arguments([[True, False]])), "#00ffff") == 0


def test_retrieval_sheet_accepts_uneven_rows_and_dollar_signs(tmp_path: Path) -> None:
    odd = arguments([[True], [False] * 10, []]) | {"queries": ["$a_{b$ \\frac", "long " * 300, ""]}
    with Image.open(retrieval_sheet(tmp_path / "sheet.png", **odd, protocol="standard, $β$ = 1")) as sheet:
        assert sheet.width > sheet.height


def test_retrieval_sheet_writes_pdf_by_suffix(tmp_path: Path) -> None:
    path = retrieval_sheet(tmp_path / "sheet.pdf", **arguments([[True]]), scores=[[0.5]])
    assert path.read_bytes().startswith(b"%PDF")


def test_retrieval_sheet_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = retrieval_sheet(tmp_path / "sheet.png", **arguments([[True]]))
    before = path.read_bytes()

    def fail(figure: Figure, target: Path, dpi: int) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        retrieval_sheet(path, **arguments([[False]]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": ["one"]}, "1 queries but 2 results"),
        ({"correct": [[True], [True, False]]}, "query 0 has 2 results but 1 correct"),
        ({"scores": [[0.1, 0.2], [0.1]]}, "query 1 has 2 results but 1 scores"),
        ({"query_images": []}, "2 queries but 0 query_images"),
        ({"queries": [], "results": [], "correct": []}, "there are no results to show"),
        ({"results": [[], []], "correct": [[], []]}, "there are no results to show"),
        ({"path": "sheet.jpg"}, "writes .png or .pdf, got 'sheet.jpg'"),
    ],
)
def test_retrieval_sheet_refuses_inconsistent_lists(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"path": tmp_path / "sheet.png"} | arguments([[True, False], [True, False]]) | changes
    with pytest.raises(ValueError, match=message):
        retrieval_sheet(**given)
    assert not list(tmp_path.iterdir())
