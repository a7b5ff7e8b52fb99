"""Opens what FFmpeg reads, in the ways that an address allows, and says in words why it could not."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event

import av
from av.container import InputContainer

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_server.video.address import Address
from lensmount_server.video.errors import CannotOpenError
from lensmount_server.video.hosts import connect
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.relay import Relay, with_tls
from lensmount_server.video.web import Web

SILENT = (av.error.ExitError, av.error.TimeoutError)
_LOCKED = (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)
_UNREADABLE = (av.error.InvalidDataError, av.error.ArgumentError)
_FOREIGN = "not a video file of a kind that this server reads"
_ELSEWHERE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, eq=False)
class Opened:
    """What FFmpeg reads from. `recorded`: it has an end, and lies there as a whole."""

    container: InputContainer
    recorded: bool


@contextmanager
def opened(address: Address, options: ReaderOptions, stop: Event) -> Iterator[Opened]:
    """An open address, for a `with`. It blocks, for a silent peer about twice `silence_s`.

    Raises InvalidInputError for what can never work, CannotOpenError for what may work later.
    """
    if address.scheme in ("http", "https"):
        with closing(Web(address, options.silence_s, stop)) as web, closing(_read_web(web, address, options)) as source:
            yield Opened(source, source.duration is not None if source.format.name == "hls" else web.finite)
        return
    if address.scheme == "file":
        _check_file(address)
        container = _open(address.url, address, options)
    elif address.relayed:
        with closing(_relay(address, options.silence_s)) as relay, closing(_through(relay, address, options)) as source:
            yield Opened(source, recorded=False)
        return
    else:
        container = _connect(address, options)
    with closing(container):
        yield Opened(container, recorded=not address.live)


def words(error: av.FFmpegError) -> str:
    """What FFmpeg says."""
    return error.strerror or type(error).__name__


def never(address: Address, why: str) -> InvalidInputError:
    """The error for what can never be read."""
    return InvalidInputError(why, field="url", value=address.shown, fix="play it with ffplay to see it fail")


def _connect(address: Address, options: ReaderOptions) -> InputContainer:
    urls = [address.at(number) for number in address.check_host()]
    for url in urls[:-1]:
        try:
            return _open(url, address, options)
        except CannotOpenError as error:
            if getattr(error.__cause__, "errno", 0) not in _ELSEWHERE:
                raise
    return _open(urls[-1], address, options)


def _relay(address: Address, silence_s: float) -> Relay:
    numbers = address.policy.resolve(address.host, address.port, address.shown)
    try:
        camera = connect(numbers, address.port, silence_s)
        if address.scheme == "rtsps":
            camera = with_tls(camera, address.host)
    except OSError as error:
        silent = f"no {address.scheme.upper()} answer within {silence_s:g} s"
        why = silent if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise _not_now(address, why) from error
    camera.settimeout(None)  # FFmpeg watches the time
    return Relay(camera)


def _through(relay: Relay, address: Address, options: ReaderOptions) -> InputContainer:
    try:
        return _open(address.through(relay.port), address, options)
    except CannotOpenError as error:
        if relay.redirected:
            raise _not_now(address, "it redirects to another address, which is not followed") from error
        raise


def _open(url: str, address: Address, options: ReaderOptions) -> InputContainer:
    given = {**address.options, "max_pixels": str(options.limits.max_pixels)}
    if address.scheme in ("rtsp", "rtsps"):  # for other protocols it means that they listen
        given["timeout"] = str(round(options.silence_s * 1e6))
    try:
        return av.open(url, "r", options=given, timeout=(options.silence_s, options.silence_s / 2))
    except av.FFmpegError as error:
        raise _why_not(error, address, options) from error


def _read_web(web: Web, address: Address, options: ReaderOptions) -> InputContainer:
    given = {**address.options, "max_pixels": str(options.limits.max_pixels)}
    patience = (2 * options.silence_s, options.silence_s)
    try:
        return av.open(web.url, "r", options=given, timeout=patience, io_open=web.open)
    except av.FFmpegError as error:
        if isinstance(error, _UNREADABLE):
            raise never(address, _FOREIGN) from error
        raise _why_not(error, address, options) from error


def _check_file(address: Address) -> None:
    """Looks again: since it was parsed the file may have become a pipe, on which FFmpeg would wait for ever."""
    place = address.policy.check_path(address.path, address.shown)
    if not place.exists():
        raise never(address, "No such file or directory")
    if not place.is_file():
        raise never(address, "not a regular file any more")


def _why_not(error: av.FFmpegError, address: Address, options: ReaderOptions) -> LensmountError:
    if not address.live:
        return never(address, _FOREIGN if isinstance(error, _UNREADABLE) else words(error))
    if isinstance(error, _LOCKED):
        return never(address, words(error))
    silent = isinstance(error, (*SILENT, *_UNREADABLE))  # FFmpeg calls an answer that never came invalid data
    why = f"no {address.scheme.upper()} answer within {options.silence_s:g} s" if silent else words(error)
    return _not_now(address, why)


def _not_now(address: Address, why: str) -> CannotOpenError:
    return CannotOpenError(why, field="url", value=address.shown, fix="check that it is up and reachable")
