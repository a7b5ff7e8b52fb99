from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lensmount import convert
from lensmount.errors import InvalidInputError
from lensmount.recording import Recorder, check_path
from lensmount.results import Result

Make = Callable[..., Result]

# Grey levels that survive JPEG and H.264; a frame's level tells which it is.
STEP = 9


def jpeg(level: int, size: tuple[int, int] = (640, 360)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def make(result_message: Callable[..., Any]) -> Make:
    def make(index: int, pts_ms: int, task: str = "defect", level: int | None = None, **more: Any) -> Result:
        picture = more.pop("jpeg", None)
        told = {"source": "line-1", "pts_ns": pts_ms * 1_000_000, "capture_time_ns": (10_000 + pts_ms) * 1_000_000}
        shown = jpeg(index * STEP if level is None else level) if picture is None else picture
        return convert.result(result_message(task, index, jpeg=shown, **{**told, **more}))

    return make


def frames(path: Path) -> list[tuple[int, int]]:
    """Of each frame: its number by the grey of its picture, and its time in milliseconds."""
    with av.open(str(path)) as container:
        decoded = [(each.to_ndarray(format="rgb24"), each.time or 0.0) for each in container.decode(video=0)]
    return [(round(float(pixels[100:300, 100:500].mean()) / STEP), round(time * 1000)) for pixels, time in decoded]


def test_each_frame_is_shown_at_its_own_time(tmp_path: Path, make: Make) -> None:
    times = [1_000, 1_040, 1_400, 1_410, 3_000, 3_033]
    with Recorder(tmp_path / "a.mp4") as recorder:
        for index, time in enumerate(times):
            recorder.add(make(index, time))
    assert frames(tmp_path / "a.mp4") == [(index, time - 1_000) for index, time in enumerate(times)]
    assert recorder.frames == 6
    assert recorder.seconds == pytest.approx(2.033)
    with av.open(str(tmp_path / "a.mp4")) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_results_of_one_frame_are_on_one_picture(tmp_path: Path, make: Make) -> None:
    with Recorder(tmp_path / "a.mp4", cards=2) as recorder:
        for index in range(5):
            recorder.add(make(index, index * 100))
            if index % 2:
                recorder.add(make(index, index * 100, "scene"))
    assert frames(tmp_path / "a.mp4") == [(index, index * 100) for index in range(5)]


def test_a_task_that_does_not_look_at_a_frame_keeps_its_card(tmp_path: Path, make: Make) -> None:
    recorder = Recorder(tmp_path / "a.mp4")
    cards = recorder._lay_out([make(0, 0), make(0, 0, "scene")])
    assert [(card.result.task, card.stale) for card in cards] == [("defect", False), ("scene", False)]
    cards = recorder._lay_out([make(1, 40)])
    assert [(card.result.task, card.stale, card.result.frame_index) for card in cards] == [
        ("defect", False, 1),
        ("scene", True, 0),
    ]


def test_two_aliases_of_a_task_have_a_card_each(tmp_path: Path, make: Make) -> None:
    recorder = Recorder(tmp_path / "a.mp4")
    for index in range(2):
        cards = recorder._lay_out([make(index, 0), make(index, 0)])
        assert [card.stale for card in cards] == [False, False]


def test_time_goes_on_when_the_stream_begins_again(tmp_path: Path, make: Make) -> None:
    with Recorder(tmp_path / "a.mp4") as recorder:
        recorder.add(make(0, 0))
        recorder.add(make(1, 500))
        recorder.add(make(2, 0, capture_time_ns=10_750 * 1_000_000))  # a file that starts again
        recorder.add(make(3, 0, capture_time_ns=10_750 * 1_000_000))  # and a camera whose clocks stand still
        recorder.add(make(4, 100))
    assert frames(tmp_path / "a.mp4") == [(0, 0), (1, 500), (2, 750), (3, 790), (4, 890)]


def test_a_camera_that_changes_its_size_stays_in_the_picture(tmp_path: Path, make: Make) -> None:
    with Recorder(tmp_path / "a.mp4") as recorder:
        recorder.add(make(0, 0))
        recorder.add(make(1, 100, jpeg=jpeg(STEP, (1280, 720))))
    assert frames(tmp_path / "a.mp4") == [(0, 0), (1, 100)]


def test_what_has_no_picture_is_left_out(tmp_path: Path, make: Make) -> None:
    with Recorder(tmp_path / "a.mp4") as recorder:
        recorder.add(make(0, 0, jpeg=b""))
    assert (recorder.frames, (tmp_path / "a.mp4").exists()) == (0, False)


def test_an_old_file_is_kept_until_the_first_frame(tmp_path: Path, make: Make) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    with Recorder(tmp_path / "a.mp4"):
        pass
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    with Recorder(tmp_path / "a.mp4") as recorder:
        recorder.add(make(0, 0))
    assert frames(tmp_path / "a.mp4") == [(0, 0)]


def test_it_plays_after_an_interruption(tmp_path: Path, make: Make) -> None:
    def interrupted() -> None:
        with Recorder(tmp_path / "a.mp4") as recorder:
            for index in range(20):
                recorder.add(make(index, index * 40))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert frames(tmp_path / "a.mp4") == [(index, index * 40) for index in range(20)]


KILLED = """
import io, os, sys
from pathlib import Path
import numpy as np
from PIL import Image
from lensmount.recording import Recorder
from lensmount.results import AdapterVersion, Result
recorder = Recorder(Path(sys.argv[1]))
for index in range(40):
    file = io.BytesIO()
    Image.new("RGB", (640, 360), (index, index, index)).save(file, "JPEG")
    adapter = AdapterVersion("defect", 1, "")
    recorder.add(Result("line-1", index, index * 40_000_000, 1, adapter, (), (), jpeg=file.getvalue()))
os.kill(os.getpid(), 9)
"""


def test_it_plays_when_nobody_came_to_close_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.mp4"], timeout=120, env=os.environ)
    assert done.returncode == -9
    assert len(frames(tmp_path / "a.mp4")) >= 30


@pytest.mark.parametrize(
    ("name", "message"), [("a.avi", "only MP4"), ("a", "only MP4"), ("gone/a.mp4", "no such folder")]
)
def test_a_file_that_can_not_be_is_refused_before(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        check_path(tmp_path / name)
    assert (caught.value.field, bool(caught.value.fix)) == ("save", True)


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path, make: Make) -> None:
    (tmp_path / "a.mp4").mkdir()
    recorder = Recorder(tmp_path / "a.mp4")
    recorder.add(make(0, 0))
    with pytest.raises(InvalidInputError, match="can not be written") as caught:
        recorder.close()
    assert "a.mp4" in caught.value.value


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_disk_that_is_full_is_told(tmp_path: Path, make: Make) -> None:
    (tmp_path / "a.mp4").symlink_to("/dev/full")
    recorder = Recorder(tmp_path / "a.mp4")

    def record() -> None:
        with recorder:
            for index in range(40):
                noise = Image.fromarray(np.random.default_rng(index).integers(0, 255, (360, 640, 3), np.uint8))
                file = io.BytesIO()
                noise.save(file, "JPEG")
                recorder.add(make(index, index * 40, jpeg=file.getvalue()))

    with pytest.raises(InvalidInputError, match="can not be written"):
        record()
