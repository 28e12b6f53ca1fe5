"""Frames of videos, also of broken ones."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.detection.frames import Video, list_sources

from .small_videos import HEIGHT, WIDTH, draw_frame

av = pytest.importorskip("av", reason="videos need PyAV: pip install -e '.[video]'")


@pytest.mark.parametrize(("per_second", "step"), [(5, 2), (2, 5), (100, 1)])
def test_frames_are_taken_evenly_with_number_and_time(drawn_videos: Path, per_second: float, step: int) -> None:
    video = Video(drawn_videos / "gate/b.mp4")
    frames = list(video.frames(per_second))
    assert [frame.number for frame in frames] == list(range(0, 32, step))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(0, 32, step)])
    assert str(video.created) == "2026-05-02 10:00:00+00:00" and video.problem == ""
    difference = np.array(frames[-1].image, float) - np.array(draw_frame([], frames[-1].seconds)[0], float)
    assert np.abs(difference[:, :40]).mean() < 12


def without_end(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damaged(content: bytes) -> bytes:
    third = len(content) // 3
    return content[:third] + bytes(byte ^ 0x5A for byte in content[third : third + 400]) + content[third + 400 :]


@pytest.mark.parametrize(
    ("suffix", "change", "frames", "problem"),
    [
        (".mp4", lambda content: b"", 0, "Invalid data"),
        (".mp4", lambda content: b"no video" * 50, 0, "Invalid data"),
        (".mp4", without_end, 0, "Invalid data"),  # the table of contents is last
        (".mkv", without_end, 10, "ends after"),
        (".mp4", damaged, 25, "damaged"),
    ],
)
def test_broken_video_yields_its_frames_and_a_reason(
    drawn_videos: Path, tmp_path: Path, suffix: str, change: Callable[[bytes], bytes], frames: int, problem: str
) -> None:
    file = tmp_path / f"video{suffix}"
    with av.open(drawn_videos / "gate/a.mp4") as source, av.open(file, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    file.write_bytes(change(file.read_bytes()))
    video = Video(file)
    assert len(list(video.frames(5))) >= frames
    assert problem in video.problem and "\n" not in video.problem


def test_frames_of_a_phone_are_upright(drawn_videos: Path, tmp_path: Path) -> None:
    """The display matrix in the track header turns the picture by a quarter, clockwise."""
    content = (drawn_videos / "gate/b.mp4").read_bytes()
    one, minus, last = b"\x00\x01\x00\x00", b"\xff\xff\x00\x00", b"\x40\x00\x00\x00"
    zero = bytes(4)
    track = content.index(b"tkhd")
    identity = content.index(one + zero * 3 + one + zero * 3 + last, track)
    quarter = zero + one + zero + minus + zero * 4 + last
    (tmp_path / "phone.mp4").write_bytes(content[:identity] + quarter + content[identity + 36 :])
    turned = next(Video(tmp_path / "phone.mp4").frames(1)).image
    assert turned.size == (HEIGHT, WIDTH)
    before = next(Video(drawn_videos / "gate/b.mp4").frames(1)).image
    assert np.array_equal(np.array(turned), np.rot90(np.array(before), -1))


def test_list_sources_names_bad_input(drawn_videos: Path, tmp_path: Path) -> None:
    assert list_sources(drawn_videos)[1] == ["gate/a.mp4", "gate/b.mp4", "hall/c.mp4"]
    assert list_sources(drawn_videos / "hall/c.mp4")[1:] == (["c.mp4"], [])
    (tmp_path / "names").mkdir()
    for name in (b"a.jpg", b"\xff.jpg"):
        Path(os.fsdecode(bytes(tmp_path / "names") + b"/" + name)).touch()
    assert list_sources(tmp_path / "names")[1] == ["a.jpg"] and len(list_sources(tmp_path / "names")[2]) == 1
    (tmp_path / "notes.txt").write_text("no frames")
    with pytest.raises(ValueError, match=r"notes.txt: neither a video nor an image"):
        list_sources(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos and no images"):
        list_sources(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_sources(tmp_path / "none")
