"""What the server and its workers say to each other, over a socket that keeps messages apart.

The server's messages are pickled. A worker's are JSON of plain numbers and words and nothing else: it
handles what strangers send, and must not be able to make the server run anything.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import astuple, dataclass
from typing import Any

from lensmount import errors
from lensmount.errors import LensmountError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.video.address import Address
from lensmount_server.video.decoder import Codec
from lensmount_server.video.mailbox import DropPolicy
from lensmount_server.video.reader import BrokenStreamError, CannotOpenError, ReaderOptions
from lensmount_server.video.settings import Effort, Gate, Pace, Region

MAX_MESSAGE = 65_536

# Class, message, field, value and fix of an error; () for none.
Words = tuple[str, ...]


@dataclass(frozen=True)
class Looking:
    """How frames are chosen and turned: `rates` are those of the tasks, in frames a second (0: every frame).

    `edition` counts the changes of it.
    """

    rates: tuple[float, ...]
    edition: int = 0
    rotation: int = 0
    region: Region = Region()  # noqa: RUF009 - frozen
    gate: Gate = Gate()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Reading:
    """A video to read."""

    address: Address
    loop: bool = False
    pace: Pace = Pace.REALTIME
    effort: Effort = Effort.AUTO
    options: ReaderOptions = ReaderOptions()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Pushing:
    """Packets that a client sends instead of a video to read."""

    codec: Codec
    extradata: bytes = b""


@dataclass(frozen=True)
class Plan:
    """All of one feed: what is read or pushed, how frames wait, from which number and time on they are counted.

    At most `in_flight` frames that were handed over wait for their answers.
    """

    video: Reading | Pushing
    looking: Looking
    policy: DropPolicy
    queue_size: int
    in_flight: int
    first_index: int = 0
    last_pts_ns: int = 0


@dataclass(frozen=True)
class Open:
    """Start a feed in that block."""

    feed: int
    plan: Plan


@dataclass(frozen=True)
class Look:
    """Look at frames in another way from now on."""

    feed: int
    looking: Looking


@dataclass(frozen=True)
class Next:
    """Hand over the next frame, prepared like this.

    The tasks `put_off`, of the looking of that `edition`, did not get the frame of their last turn.
    """

    feed: int
    preprocessings: tuple[Preprocessing, ...]
    edition: int = 0
    put_off: tuple[int, ...] = ()
    jpeg: bool = False


@dataclass(frozen=True)
class Prepare:
    """Prepare a frame that was handed over in yet another way."""

    feed: int
    index: int
    preprocessing: Preprocessing
    ticket: int


@dataclass(frozen=True)
class Packet:
    """A pushed access unit of `size` bytes lies in the block, or the `last` one was before."""

    feed: int
    size: int = 0
    pts_ns: int = 0
    dts_ns: int = 0
    capture_time_ns: int = 0
    last: bool = False


@dataclass(frozen=True)
class Close:
    """Stop a feed."""

    feed: int


@dataclass(frozen=True)
class Ping:
    """Say that you live."""


Order = Open | Look | Next | Prepare | Packet | Close | Ping


@dataclass(frozen=True)
class Began:
    """The first frame of a feed was decoded."""

    feed: int
    codec: str


@dataclass(frozen=True)
class Handed:
    """A frame lies in the block: the first `prepared` of the pictures that were asked for, then `jpeg` bytes.

    `due` are the tasks whose turn it is, by the looking of that `edition`. A `still` frame shows what the last one
    showed that was not; it was not prepared.
    """

    feed: int
    index: int
    pts_ns: int
    capture_time_ns: int
    decode_ms: float
    width: int
    height: int
    prepared: int
    jpeg: int
    still: bool
    edition: int
    due: tuple[int, ...]
    lost: tuple[int, ...]
    error: Words = ()


@dataclass(frozen=True)
class Prepared:
    """What the `Prepare` with that ticket asked for lies in the block, or the error that was raised."""

    feed: int
    ticket: int
    error: Words = ()


@dataclass(frozen=True)
class Took:
    """A pushed packet was decoded and its frames wait or are gone: the next may come."""

    feed: int


@dataclass(frozen=True)
class Ended:
    """No more frames come: the end of a file, or the error that ended it."""

    feed: int
    error: Words = ()


@dataclass(frozen=True)
class Closed:
    """A feed's threads are gone."""

    feed: int


@dataclass(frozen=True)
class Pong:
    """It lives."""


Report = Began | Handed | Prepared | Took | Ended | Closed | Pong
_REPORTS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Began, Handed, Prepared, Took, Ended, Closed, Pong)}
_TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LensmountError)]
_ERRORS: dict[str, type[LensmountError]] = {
    kind.__name__: kind for kind in (*_TREE, BrokenStreamError, CannotOpenError)
}
# A message has room for so much of each word of an error: a plugin may say anything.
_LONGEST_WORD = 2_000


def words(error: LensmountError | None) -> Words:
    """An error in words that can travel; () for none."""
    if error is None:
        return ()
    said = type(error).__name__, error.message, error.field, error.value, error.fix
    return tuple(word[:_LONGEST_WORD] for word in said)


def error_of(said: Words) -> LensmountError | None:
    """The error that was said, as if it had been raised here."""
    if not said:
        return None
    kind, message, field, value, fix = said
    return _ERRORS.get(kind, errors.ServerError)(message, field=field, value=value, fix=fix)


def order_bytes(order: Order) -> bytes:
    """An order as it goes to a worker."""
    return pickle.dumps(order)


def read_order(data: bytes) -> Order:
    """An order that came from the server."""
    order: Order = pickle.loads(data)  # noqa: S301 - from the process that started this one
    return order


def report_bytes(report: Report) -> bytes:
    """A report as it goes to the server."""
    return json.dumps([type(report).__name__, *astuple(report)]).encode()


def read_report(data: bytes) -> Report:
    """A report that came from a worker; lists become tuples. Raises ValueError for anything else."""
    try:
        name, *values = json.loads(data)
        report: Report = _REPORTS[name](*(tuple(value) if isinstance(value, list) else value for value in values))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no report: {data[:80]!r}") from error
    return report
