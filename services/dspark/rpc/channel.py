"""Client channels with the house's options."""

import asyncio

import grpc
from grpc import aio


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


def open_channel(address: str, *, max_message_bytes: int = 64 * 1024 * 1024) -> aio.Channel:
    """Open a channel to ``host:port``; it connects when first used."""
    # Plaintext: TLS is a property of the deployment's network for now.
    return aio.insecure_channel(address, options=channel_options(max_message_bytes))


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
