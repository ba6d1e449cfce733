"""Client channels with the house's options."""

import asyncio

import grpc
from grpc import aio

from dspark.rpc.credentials import Credentials

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options of both ends: message bound, and keepalive that notices a dead peer in seconds."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # A restarted peer should be found at once, not after two minutes.
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def open_channel(address: str, credentials: Credentials | None = None) -> aio.Channel:
    """Open a channel to ``host:port``; it connects when first used.

    Args:
        address: Where to, in one of gRPC's forms.
        credentials: For mutual TLS; None: plaintext.  The channel shows the certificate of now for
            as long as it lives: open another one to show a newer.
    """
    options = channel_options(MAX_MESSAGE_BYTES)
    if credentials is None:
        return aio.insecure_channel(address, options=options)
    return aio.secure_channel(
        address,
        credentials.for_channel(),
        options=[*options, *credentials.channel_options()],
    )


def open_blocking_channel(address: str, credentials: Credentials | None = None) -> grpc.Channel:
    """Open one for code without an event loop; see ``open_channel``."""
    options = channel_options(MAX_MESSAGE_BYTES)
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(
        address,
        credentials.for_channel(),
        options=[*options, *credentials.channel_options()],
    )


def told_to_stop() -> bool:
    """Whether this very task was cancelled, and not only a call or a channel that it awaits.

    grpc.aio raises CancelledError for both, also where a request iterator of ours failed.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_lost(error: grpc.RpcError) -> bool:
    """Whether an error says that the peer is gone, rather than that it refused."""
    code = error.code() if isinstance(error, aio.AioRpcError) else None
    return code in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
