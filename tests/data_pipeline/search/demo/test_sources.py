"""Frames with a box, and videos that cannot be shown."""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.detection.source_files import record_root
from data_pipeline.search.hits import PersonHit

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

from data_pipeline.search.demo.cards import clock, source
from data_pipeline.search.demo.sources import Sources


def hit_of(folder: Path, name: str, content: bytes, **metadata: Any) -> PersonHit:
    """A hit that was cropped from a file of the folder `seen`."""
    for path in (folder / "seen" / name, folder / "crops" / name / "1.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    record_root(folder / "crops", folder / "seen")
    given = {"source": name, "box_x": 400, "box_y": 100, "box_w": 100, "box_h": 200, **metadata}
    return PersonHit(0, folder / "crops" / name / "1.jpg", f"{name}/1.jpg", 0.0, 0.0, 0.0, given)


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "#7799bb").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("scale", [1, 4])
def test_of_draws_the_box_into_the_frame(tmp_path: Path, scale: int) -> None:
    """The larger frame is shrunk to 1280 pixels; the inner edge of the yellow line is the box."""
    box = {f"box_{side}": scale * value for side, value in zip("xywh", (200, 60, 50, 120), strict=True)}
    found = Sources().of(hit_of(tmp_path, "hall/a.png", png((scale * 640, scale * 360)), **box))
    assert found is not None and found.clip is None and found.note == "" and found.frame is not None
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(found.frame.partition(",")[2]))), int)
    factor = pixels.shape[1] / 640
    assert factor == min(scale, 2)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 2] < 90))
    edges = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / factor
    assert edges == pytest.approx([200, 60, 250, 180], abs=5)
    html = source(found)
    assert "alt='frame of hall/a.png, with a box around the person'" in html and "<video" not in html


@pytest.mark.parametrize(
    "metadata", [{"box_x": float("nan")}, {"box_h": None}, {"box_w": "wide"}, {"source": None}, {"source": "web"}]
)
def test_of_ignores_images_that_are_no_crops(tmp_path: Path, metadata: dict[str, Any]) -> None:
    assert Sources().of(hit_of(tmp_path, "hall/a.png", png((640, 360)), **metadata)) is None


def test_of_says_why_a_video_has_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="videos need PyAV: pip install -e '.[video]'")
    hit = hit_of(tmp_path, "gate/a.mp4", b"no video", seconds=7.5)
    found = Sources().of(hit)
    assert found is not None and found.frame is None and found.note == "gate/a.mp4: no frame at 7.500 s can be decoded"
    assert found.clip is not None and found.clip.endswith("#t=4.50,10.50") and "gate" not in found.clip
    monkeypatch.setitem(sys.modules, "av", None)
    found = Sources().of(hit)
    assert found is not None and "pip install -e '.[video]'" in found.note and found.clip is not None
    assert "gate/a.mp4 at 0:07.5" in source(found)


@pytest.mark.parametrize(("seconds", "shown"), [(-1, "0:00.0"), (59.96, "1:00.0"), (3723.44, "1:02:03.4")])
def test_clock_formats_hours_minutes_and_seconds(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
