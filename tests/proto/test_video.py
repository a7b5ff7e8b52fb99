from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest

from lensmount import AccessUnit, Client, InvalidInputError
from lensmount.v1 import inference_pb2
from lensmount.video import access_units, has_parameter_sets

if TYPE_CHECKING:
    from proto.conftest import Answer, WireDouble

MakeVideo = Callable[..., Path]
FRAME_NS = 100_000_000


def decode(units: list[AccessUnit], extradata: bytes = b"") -> list[tuple[int, int]]:
    """Decode as a server would: (pts in ns, grey value of the picture) in the decoder's order."""
    decoder = av.CodecContext.create({"h264": "h264", "h265": "hevc"}[units[0].codec], "r")
    decoder.extradata = extradata or None
    pictures: list[Any] = []
    for unit in units:
        packet = av.Packet(unit.data)
        packet.pts, packet.dts = unit.pts_ns, unit.dts_ns
        pictures += decoder.decode(packet)  # type: ignore[attr-defined]
    pictures += decoder.decode(None)  # type: ignore[attr-defined]
    return [(picture.pts, round(float(picture.to_ndarray(format="gray").mean()))) for picture in pictures]


def greys(pictures: list[tuple[int, int]]) -> list[int]:
    """The frame numbers that the pictures show: number k was painted as grey 10 k, coded in limited range."""
    return [round(grey / 10) for _, grey in pictures]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.mov", "clip.flv"])
def test_h264_arrives_as_annex_b_with_its_times(name: str, make_video: MakeVideo) -> None:
    units = list(access_units(make_video(name)))
    assert {unit.codec for unit in units} == {"h264"}
    assert all(unit.data.startswith((b"\x00\x00\x01", b"\x00\x00\x00\x01")) for unit in units)
    assert units[0].extradata == b""
    assert sorted(unit.pts_ns for unit in units) == [index * FRAME_NS for index in range(24)]
    assert [unit.pts_ns for unit in units] != sorted(unit.pts_ns for unit in units), "the clip has no B-frames"
    assert [unit.dts_ns for unit in units] == sorted(unit.dts_ns for unit in units)
    pictures = decode(units)
    assert [pts for pts, _ in pictures] == [index * FRAME_NS for index in range(24)]
    assert greys(pictures) == list(range(24))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_h265_too(name: str, make_video: MakeVideo) -> None:
    units = list(access_units(make_video(name, codec="libx265")))
    assert {unit.codec for unit in units} == {"h265"}
    pictures = decode(units)
    assert [pts for pts, _ in pictures] == [index * FRAME_NS for index in range(24)]
    assert greys(pictures) == list(range(24))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_raw_stream_gets_times_from_the_nominal_rate(codec: str, make_video: MakeVideo) -> None:
    name = {"libx264": "clip.h264", "libx265": "clip.hevc"}[codec]
    units = list(access_units(make_video(name, codec=codec, b_frames=0), fps=50))
    assert [(unit.pts_ns, unit.dts_ns) for unit in units] == [(index * 20_000_000,) * 2 for index in range(24)]
    assert greys(decode(units)) == list(range(24))


def test_parameter_sets_come_beside_packets_that_lack_them(make_video: MakeVideo) -> None:
    units = list(access_units(make_video("clip.avi", b_frames=0, headers=False)))
    assert not any(has_parameter_sets("h264", unit.data) for unit in units)
    assert has_parameter_sets("h264", units[0].extradata)
    assert greys(decode(units, units[0].extradata)) == list(range(24))
    with pytest.raises(av.FFmpegError):
        decode(units)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_stream_that_starts_between_key_pictures_has_its_parameter_sets(codec: str, make_video: MakeVideo) -> None:
    whole, cut = make_video("clip.mp4", codec=codec), make_video("cut.mp4", codec=codec, frames=1)
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[3:-1]:
            packet.stream = copy
            target.mux(packet)
    first = next(access_units(cut))
    assert not has_parameter_sets(first.codec, first.data)
    assert has_parameter_sets(first.codec, first.extradata)
    assert next(access_units(whole)).data.find(first.extradata) >= 0


def test_a_file_goes_over_the_wire(
    make_video: MakeVideo, double: WireDouble, client: Client, answer_stream: Answer
) -> None:
    double.answers["StreamInfer"] = answer_stream
    clip = make_video("clip.mp4")
    assert len(list(client.stream(clip, ["defect"]))) == 24
    config, *units = double.asked["StreamInfer"]
    assert (config.config.codec, config.config.extradata) == (inference_pb2.CODEC_H264, b"")
    assert [(unit.packet.data, unit.packet.pts_ns, unit.packet.dts_ns) for unit in units] == [
        (unit.data, unit.pts_ns, unit.dts_ns) for unit in access_units(str(clip))
    ]


@pytest.mark.parametrize(
    ("name", "codec", "found"), [("clip.webm", "libvpx-vp9", "vp9"), ("clip.avi", "mpeg4", "mpeg4")]
)
def test_another_codec_is_named_with_the_way_out(name: str, codec: str, found: str, make_video: MakeVideo) -> None:
    clip = make_video(name, codec=codec, frames=2)
    with pytest.raises(InvalidInputError, match=f"is coded as {found}") as caught:
        next(access_units(clip))
    assert caught.value.value == found
    assert f"ffmpeg -i {clip} -c:v libx264" in caught.value.fix


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video in here" * 100)
    with av.open(str(tmp_path / "tone.wav"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    for name, says in [("notes.mp4", "can not be read"), ("tone.wav", "holds no video"), ("gone.mp4", "No such file")]:
        with pytest.raises(InvalidInputError, match=says) as caught:
            next(access_units(tmp_path / name))
        assert caught.value.field == "frames"


def test_a_truncated_file_gives_what_it_holds(make_video: MakeVideo, tmp_path: Path) -> None:
    clip = make_video("clip.ts")
    cut = tmp_path / "cut.ts"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert 0 < len(list(access_units(cut))) < 24


def test_a_file_is_closed_when_its_reader_leaves(make_video: MakeVideo) -> None:
    clip = make_video("clip.mp4")
    units = access_units(clip)
    next(units)
    open_files = {path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    assert clip in open_files
    units.close()  # type: ignore[attr-defined]
    open_files = {path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    assert clip not in open_files


def test_without_pyav_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["av"] = None
import lensmount
try:
    next(lensmount.Client("127.0.0.1:1").stream("clip.mp4", ["defect"]))
except lensmount.MissingExtraError as error:
    print(error.fix)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "pip install 'lensmount[video]'"
