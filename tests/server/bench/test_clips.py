from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from lensmount_server.bench.clips import FPS, NO_B_FRAMES, Recipe, write


def test_a_clip_has_its_frames_its_size_and_moves(tmp_path: Path) -> None:
    path = write(tmp_path, Recipe("clip", 320, 192, 500_000, NO_B_FRAMES), 12)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(320, 192)] * 12
    times = [round(frame.time * FPS) for frame in frames if frame.time is not None]
    assert times == list(range(times[0], times[0] + 12))
    first, last = (frames[number].to_ndarray(format="gray").astype(float) for number in (0, -1))
    assert np.abs(first - last).mean() > 2
