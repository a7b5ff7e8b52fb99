from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, TooLargeError
from lensmount_server.video.address import parse_address
from lensmount_server.video.errors import BrokenStreamError
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.open import open_reader
from lensmount_server.video.plugins import PluginPicture, PluginReader
from lensmount_server.video.policy import AddressPolicy, known_schemes
from lensmount_server.video.settings import Pace
from opened import pixels_of
from videos import NS, number_of, numbered

Body = Callable[[str, Event], Iterator[Any]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one source plugin for the length of a test."""

    def installed(code: str, scheme: str = "ball", name: str = "opener") -> None:
        module = f"plugin_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{module}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[lensmount.sources]\n{scheme} = {module}:{name}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return installed


BALL = """
    import numpy as np
    from lensmount_server.video.plugins import PluginPicture

    def opener(url, stop):
        for number in range(int(url.partition("//")[2])):
            yield PluginPicture(np.full((24, 32, 3), number, np.uint8), number * 100_000_000, 7_000 + number)

    opener.live = False
"""


def test_an_installed_plugin_brings_a_scheme(install: Callable[..., None]) -> None:
    before = known_schemes()
    with pytest.raises(InvalidInputError, match="not a kind of address known here"):
        parse_address("ball://3", AddressPolicy())
    install(BALL)
    assert set(known_schemes()) - set(before) == {"ball"}
    address = parse_address("ball://3", AddressPolicy())
    assert not address.live
    frames = list(open_reader(address, pace=Pace.FAST).frames())
    assert [pixels_of(frame.picture)[0, 0, 0] for frame in frames] == [0, 1, 2]
    assert [frame.pts_ns for frame in frames] == [0, NS // 10, NS // 5]
    assert [frame.capture_time_ns for frame in frames] == [7000, 7001, 7002]


def test_its_scheme_can_be_forbidden_and_is_listed(install: Callable[..., None]) -> None:
    install(BALL)
    with pytest.raises(InvalidInputError, match="ball: is not allowed by this server"):
        parse_address("ball://3", AddressPolicy(("rtsp",)))
    with pytest.raises(InvalidInputError) as caught:
        parse_address("bell://3", AddressPolicy())
    assert "plugins installed: ball" in caught.value.fix


def test_a_plugin_can_not_take_the_place_of_what_is_built_in(install: Callable[..., None]) -> None:
    install(BALL, scheme="rtsp")
    assert parse_address("rtsp://camera/x", AddressPolicy()).options["rtsp_transport"] == "tcp"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import no_such_module_here", "no_such_module_here"),
        ("other = 1", "opener"),
        ("opener = 1", "is not a function"),
        ("def opener(url, stop): ...", "attribute `live`"),
        ("def opener(url, stop): ...\nopener.live = 'yes'", "attribute `live`"),
    ],
)
def test_a_plugin_that_can_not_be_used_says_why(install: Callable[..., None], code: str, words: str) -> None:
    install(code)
    with pytest.raises(IncompatibleError, match=words) as caught:
        parse_address("ball://3", AddressPolicy())
    assert "entry point lensmount.sources: ball" in caught.value.fix


def reader(body: Body, *, live: bool = False, **named: Any) -> PluginReader:
    plugin: Any = body
    plugin.live = live
    return PluginReader(plugin, "ball://x", "ball://x", **named)


def test_what_a_plugin_raises_ends_the_source_with_its_words() -> None:
    def body(url: str, stop: Event) -> Iterator[PluginPicture]:
        yield PluginPicture(numbered(1))
        raise KeyError("the sensor is gone")

    frames = reader(body).frames()
    assert number_of(pixels_of(next(frames).picture)) == 1
    with pytest.raises(BrokenStreamError, match="KeyError: 'the sensor is gone'"):
        next(frames)


def test_an_error_of_ours_stays_what_it_is() -> None:
    def body(url: str, stop: Event) -> Iterator[PluginPicture]:
        raise InvalidInputError("no such sensor", field="url", value=url)
        yield

    with pytest.raises(InvalidInputError, match="no such sensor"):
        next(reader(body).frames())


@pytest.mark.parametrize(
    "picture",
    [
        None,
        np.zeros((4, 4, 3), np.uint8),
        PluginPicture([[1, 2, 3]]),  # type: ignore[arg-type]
        PluginPicture(np.zeros((4, 4, 3), np.float32)),
        PluginPicture(np.zeros((4, 4), np.uint8)),
        PluginPicture(np.zeros((4, 4, 4), np.uint8)),
        PluginPicture(np.zeros((0, 4, 3), np.uint8)),
    ],
)
def test_what_is_no_picture_is_refused(picture: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        next(reader(lambda _url, _stop: iter([picture])).frames())
    assert caught.value.fix


def test_what_is_no_iterator_is_refused() -> None:
    body: Any = lambda _url, _stop: 7  # noqa: E731
    with pytest.raises(BrokenStreamError, match="TypeError"):
        next(reader(body).frames())


def test_pictures_beyond_the_limits_are_refused() -> None:
    def body(url: str, stop: Event) -> Iterator[PluginPicture]:
        yield PluginPicture(numbered(1))

    with pytest.raises(TooLargeError):
        next(reader(body, limits=PictureLimits(max_side=319)).frames())


def test_the_end_of_a_live_plugin_is_a_failure_and_of_another_one_the_end() -> None:
    def body(url: str, stop: Event) -> Iterator[PluginPicture]:
        yield PluginPicture(numbered(1))

    assert len(list(reader(body).frames())) == 1
    with pytest.raises(LensmountError, match="the plugin ended the stream"):
        list(reader(body, live=True).frames())


def test_a_plugin_is_paced_looped_and_stopped() -> None:
    stops: list[Event] = []

    def body(url: str, stop: Event) -> Iterator[PluginPicture]:
        stops.append(stop)
        for number in range(3):
            yield PluginPicture(numbered(number), number * NS // 20)

    source = reader(body, paced=True, loop=True)
    started = time.monotonic()
    frames = source.frames()
    assert [next(frames).index for _ in range(7)] == list(range(7))
    assert time.monotonic() - started >= 0.25
    source.stop()
    assert list(frames) == []
    assert all(stop.is_set() for stop in stops)


def test_the_time_of_a_picture_without_one_is_now() -> None:
    def body(url: str, stop: Event) -> Iterator[PluginPicture]:
        yield PluginPicture(np.asfortranarray(numbered(5)))

    before = time.time_ns()
    frame = next(reader(body).frames())
    assert before <= frame.capture_time_ns <= time.time_ns()
    assert pixels_of(frame.picture).flags.c_contiguous
