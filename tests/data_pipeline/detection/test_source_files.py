"""Sources of crops: the recorded folder, path traversal, symbolic links, and frames at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.detection.frames import Video, read_frame
from data_pipeline.detection.source_files import record_root, source_file
from data_pipeline.images import UnreadableImageError


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".h264"])
def test_read_frame_returns_the_frame_of_a_crop(tmp_path: Path, suffix: str) -> None:
    """The frame is that of a sequential reading, also after a key frame in the middle and in a raw stream."""
    av = pytest.importorskip("av", reason="videos need PyAV: pip install -e '.[video]'")
    with av.open(tmp_path / f"a{suffix}", "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "2"})
        stream.width, stream.height = 64, 48
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), (0, 6 * number, 0)))))
        container.mux(stream.encode())
    frames = list(Video(tmp_path / f"a{suffix}").frames(100))
    for frame in frames[::3]:
        found = read_frame(tmp_path / f"a{suffix}", round(frame.seconds, 3))
        assert np.array_equal(np.array(found), np.array(frame.image)), frame.seconds
    assert len(frames) == 40
    with pytest.raises(UnreadableImageError, match=r"no frame at 99\.000 s"):
        read_frame(tmp_path / f"a{suffix}", 99)


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """A crop of `videos/gate/a.mp4`; a secret file is beside the folder `videos`."""
    for name in ("videos/gate/a.mp4", "secret.mp4", "crops/gate/a.mp4/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    record_root(tmp_path / "crops", tmp_path / "videos")
    return tmp_path / "crops/gate/a.mp4/1.jpg"


def test_source_file_finds_the_source_of_a_crop(crop: Path, tmp_path: Path) -> None:
    assert source_file(crop, "gate/a.mp4") == tmp_path / "videos/gate/a.mp4"
    other = (None, 3, "", "web", "other/a.mp4", "a\0b", str(crop.parent))
    assert [source_file(crop, name) for name in other] == [None] * 7
    (tmp_path / "videos/gate/a.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="moved or deleted"):
        source_file(crop, "gate/a.mp4")
    (tmp_path / "crops/.root.json").unlink()
    with pytest.raises(FileNotFoundError, match="run `bdam crop` again"):
        source_file(crop, "gate/a.mp4")


@pytest.mark.parametrize("source", ["../secret.mp4", "gate/../../secret.mp4", "link.mp4", "folder/secret.mp4"])
def test_source_file_refuses_files_outside_of_the_folder(crop: Path, tmp_path: Path, source: str) -> None:
    """Traversal, and links to a file and to a folder, with a crop whose path has the same parts."""
    (tmp_path / "videos/link.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "videos/folder").symlink_to(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not shown"):
        source_file(tmp_path / "crops" / source / "1.jpg", source)
