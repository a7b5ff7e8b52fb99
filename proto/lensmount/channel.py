"""How a client connects: the options of its channel."""

from __future__ import annotations

import getpass

DEFAULT_ADDRESS = "localhost:50051"

MAX_MESSAGE_BYTES = 64 << 20

# A server with gRPC's default settings hangs up on a silent client that pings more often than
# every five minutes (measured: after two minutes, with a ping every 30 s).
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

# A server notes no more of a name; gRPC refuses calls with some kilobytes of metadata.
MAX_ACTOR = 200

Metadata = tuple[tuple[str, str], ...]


def who(actor: str | None) -> Metadata:
    """What each call says of its caller, for the server's journal: `actor`, the user's login name where it is None."""
    try:
        name = getpass.getuser() if actor is None else actor
    except (KeyError, OSError):  # a container's user may have no name
        name = ""
    plain = name[:MAX_ACTOR].encode("ascii", "replace").decode()
    return (("lensmount-actor", "".join(each if each.isprintable() else "?" for each in plain)),) if name else ()
