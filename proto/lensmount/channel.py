"""How a client connects: the options of its channel."""

from __future__ import annotations

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
