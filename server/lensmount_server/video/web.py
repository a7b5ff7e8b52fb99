"""What lies behind http:// and https://, opened by the server itself and handed to FFmpeg to read.

FFmpeg would resolve names, follow redirects and fetch what playlists name without asking. Here every
connection, whatever led to it, goes to an address that the policy has just allowed. TLS certificates are
checked. Proxies of the environment are not used: nobody could check what they connect to.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import string
import urllib.error
import urllib.request
from contextlib import closing
from http import HTTPStatus
from threading import Event
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_server.video.address import Address
from lensmount_server.video.errors import BrokenStreamError, CannotOpenError
from lensmount_server.video.hosts import connect
from lensmount_server.video.policy import AddressPolicy

_AGENT = "lensmount"
_LOCKED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Web:
    """Opens one address and what it leads to (redirects, the segments of a playlist). Close it when done.

    `url` is the address for FFmpeg: without the login.
    """

    def __init__(self, address: Address, silence_s: float, stop: Event) -> None:
        self._address = address
        self._silence_s = silence_s
        self._stop = stop
        self.url = _without_login(address.url)
        self._opener = _opener(address)
        self._open: list[WebFile] = []

    @property
    def finite(self) -> bool:
        """Whether the web server has said how long the first resource is: a recording, or a list of others."""
        return bool(self._open) and self._open[0].length is not None

    def open(self, url: str, _flags: int = 0, _options: object = None) -> WebFile:
        """The resource at `url`, in the form that PyAV's `io_open` wants.

        Raises InvalidInputError for what is forbidden, locked or a web page, CannotOpenError for what is not there now.
        """
        if not url.startswith(("http://", "https://")):
            raise self._never(f"it leads to {url.partition(':')[0]}:, which a playlist may not name here")
        resource = WebFile(functools.partial(self._get, _without_login(url)), self._stop)
        self._open = [*self._open[:1], *(each for each in self._open[1:] if not each.closed), resource]
        return resource

    def close(self) -> None:
        """Closes what is still open."""
        for each in self._open:
            each.close()

    def _get(self, url: str, offset: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": _AGENT} | ({"Range": f"bytes={offset}-"} if offset else {})
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  # only HTTP has a handler in this opener
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=self._silence_s)
        except urllib.error.HTTPError as error:
            with closing(error):
                raise self._answered(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        except ValueError as error:  # a login of a kind that urllib does not know
            raise self._never(f"the web server asks for what is not known here: {error}") from error
        if offset and response.status != HTTPStatus.PARTIAL_CONTENT:
            response.close()
            raise self._broken("the web server does not send parts of a file")
        if response.headers.get_content_type() == "text/html" and "Content-Type" in response.headers:
            response.close()
            raise self._never("it is a web page (text/html), not a video")
        return response

    def _answered(self, error: urllib.error.HTTPError) -> LensmountError:
        why = f"the web server answered {error.code} {error.reason}"
        if error.code in _LOCKED:
            return self._never(why)
        return CannotOpenError(why, field="url", value=self._address.shown, fix="check the path of the address")

    def _unreachable(self, error: Exception) -> CannotOpenError:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        silent = f"no answer within {self._silence_s:g} s"
        why = silent if isinstance(cause, TimeoutError) else str(getattr(cause, "strerror", "") or cause)
        fix = "check that it is up and reachable"
        return CannotOpenError(why, field="url", value=self._address.shown, fix=fix)

    def _broken(self, why: str) -> BrokenStreamError:
        return BrokenStreamError(why, field="url", value=self._address.shown, fix="check the camera and the network")

    def _never(self, why: str) -> InvalidInputError:
        fix = "use the address of a video, not of a page about it"
        return InvalidInputError(why, field="url", value=self._address.shown, fix=fix)


class WebFile:
    """A resource as a file: it connects when it is read, and again after a `seek`."""

    def __init__(self, get: functools.partial[http.client.HTTPResponse], stop: Event) -> None:
        self._get = get
        self._stop = stop
        self._response = get(0)
        self._at = self._position = 0
        length = self._response.headers.get("Content-Length", "")
        self.length = int(length) if length.isdecimal() else None
        self._ranges = self._response.headers.get("Accept-Ranges") == "bytes" and self.length is not None
        self.closed = False

    def read(self, count: int) -> bytes:
        """What has come, at most `count` bytes; b"" at the end. Raises BrokenStreamError when that comes too early."""
        if self._stop.is_set() or (self.length is not None and self._position >= self.length):
            return b""
        if self._position != self._at:
            self._response.close()
            self._response = self._get(self._position)
            self._at = self._position
        try:
            data = self._response.read1(count)
        except (OSError, http.client.HTTPException) as error:
            raise self._cut(f"the connection broke: {error}") from error
        if not data and self.length is not None:
            raise self._cut(f"the connection ended after {self._at} of {self.length} bytes")
        self._at = self._position = self._at + len(data)
        return data

    def seekable(self) -> bool:
        """Whether the web server sends parts."""
        return self._ranges

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes there when it is read next."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length or 0}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        """Bytes from the start."""
        return self._position

    def close(self) -> None:
        """Ends the connection."""
        self.closed = True
        self._response.close()

    def _cut(self, why: str) -> BrokenStreamError:
        return BrokenStreamError(why, field="url", fix="check the camera and the network")


def _connect(connection: http.client.HTTPConnection, policy: AddressPolicy, shown: str) -> socket.socket:
    addresses = policy.resolve(connection.host, connection.port, shown)
    return connect(addresses, connection.port, connection.timeout)


class _Http(http.client.HTTPConnection):
    def __init__(self, *given: Any, policy: AddressPolicy, shown: str, **named: Any) -> None:
        super().__init__(*given, **named)
        self._to = policy, shown

    def connect(self) -> None:
        self.sock = _connect(self, *self._to)


class _Https(http.client.HTTPSConnection):
    def __init__(self, *given: Any, policy: AddressPolicy, shown: str, **named: Any) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(*given, context=self._tls, **named)
        self._to = policy, shown

    def connect(self) -> None:
        self.sock = self._tls.wrap_socket(_connect(self, *self._to), server_hostname=self.host)


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, policy: AddressPolicy, shown: str) -> None:
        urllib.request.AbstractHTTPHandler.__init__(self)
        self._checked = {"policy": policy, "shown": shown}

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_Http, **self._checked), req)  # type: ignore[arg-type]

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_Https, **self._checked), req)  # type: ignore[arg-type]


class _Locked(urllib.request.BaseHandler):
    """Closes the answer that asks for a login, which the handlers after it leave open."""

    handler_order = 100

    def http_error_401(self, _req: object, fp: IO[bytes], *_: object) -> None:
        fp.close()


def _opener(address: Address) -> urllib.request.OpenerDirector:
    logins = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    parts = urlsplit(address.url)
    if parts.username is not None:
        root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
        logins.add_password(None, root, unquote(parts.username), unquote(parts.password or ""))
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Handler(address.policy, address.shown),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPRedirectHandler(),
        _Locked(),
        urllib.request.HTTPBasicAuthHandler(logins),
        urllib.request.HTTPDigestAuthHandler(logins),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    return quote(plain, safe=string.punctuation)
