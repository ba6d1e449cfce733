"""What TLS costs a draft round: ``python -m e2e.tls_cost [--rounds 400] [--hidden 256]``.

The draft stream as verifiers and drafters speak it, between two processes, with a drafter that
answers at once: all of a round trip that is not drafting.  The same messages go over plaintext and
over mutual TLS in turns of a few rounds; the difference of the medians is what TLS costs.
"""

import argparse
import asyncio
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np

from dspark.config.endpoint import EndpointSettings
from dspark.config.tls import TlsSettings
from dspark.rpc.authority import Authority
from dspark.rpc.channel import open_channel
from dspark.rpc.credentials import Credentials
from dspark.rpc.server import RpcServer
from dspark.wire.tensor import tensor_to_wire
from dspark.wire.v1 import draft_pb2, draft_pb2_grpc

_ROWS = 4  # of a session and round: about the demo's accepted length
_GAMMA = 7
_TURN = 20
_WARM = 40
_LONG_S = 60.0


class Mirror(draft_pb2_grpc.DraftServiceServicer):
    """Answers every round at once with a block for each session."""

    async def Rounds(  # type: ignore[override]
        self, request_iterator: AsyncIterator[draft_pb2.RoundRequest], context: object
    ) -> AsyncIterator[draft_pb2.RoundResponse]:
        async for request in request_iterator:
            yield draft_pb2.RoundResponse(
                round=request.round,
                sessions=request.sessions,
                base_lengths=request.base_lengths,
                statuses=[draft_pb2.DRAFT_STATUS_OK] * len(request.sessions),
                num_tokens=[_GAMMA] * len(request.sessions),
                tokens=[1000] * _GAMMA * len(request.sessions),
                confidences=[0.8] * _GAMMA * len(request.sessions),
            )


class Stream:
    """One long-lived stream of rounds."""

    def __init__(self, address: str, credentials: Credentials | None) -> None:
        self._channel = open_channel(address, credentials)
        self._asked: asyncio.Queue[draft_pb2.RoundRequest] = asyncio.Queue(1)
        stub = draft_pb2_grpc.DraftServiceStub(self._channel)
        self._call = stub.Rounds(self._outgoing(), timeout=_LONG_S * 10)

    async def _outgoing(self) -> AsyncIterator[draft_pb2.RoundRequest]:
        while True:
            yield await self._asked.get()

    async def round_s(self, request: draft_pb2.RoundRequest) -> float:
        """Return the seconds that one round takes."""
        began_s = time.perf_counter()
        await self._asked.put(request)
        answer = await asyncio.wait_for(self._call.read(), _LONG_S)
        assert answer.round == request.round
        return time.perf_counter() - began_s

    async def close(self) -> None:
        """End it."""
        self._call.cancel()
        await self._channel.close()


def tls_in(folder: Path) -> TlsSettings:
    """The settings of files that lie in ``folder``."""
    return TlsSettings(
        certificate=folder / "certificate.pem",
        key=folder / "key.pem",
        authority=folder / "authority.pem",
    )


async def serve(folder: Path) -> None:
    """Serve a mirror in plaintext and one over TLS; print both addresses; end with the input."""
    servers = [
        RpcServer(EndpointSettings(), [], each) for each in (None, Credentials(tls_in(folder)))
    ]
    for server in servers:
        server.add(lambda it: draft_pb2_grpc.add_DraftServiceServicer_to_server(Mirror(), it))
        print(await server.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.stop(0)


def a_round(number: int, sessions: int, hidden: int) -> draft_pb2.RoundRequest:
    """A round of ``sessions`` sessions with their new rows in float16."""
    return draft_pb2.RoundRequest(
        round=number,
        sessions=range(sessions),
        base_lengths=[300] * sessions,
        anchors=[7] * sessions,
        rows_starts=[297] * sessions,
        num_rows=[_ROWS] * sessions,
        max_tokens=[_GAMMA] * sessions,
        rows=tensor_to_wire(np.ones((_ROWS * sessions, hidden), np.float16)),
    )


async def measure(
    addresses: Sequence[str], folder: Path, *, sessions: int, hidden: int, rounds: int
) -> None:
    """Print one line for rounds of this size."""
    streams = [
        Stream(address, each)
        for address, each in zip(addresses, (None, Credentials(tls_in(folder))), strict=True)
    ]
    seconds: list[list[float]] = [[], []]
    request = a_round(1, sessions, hidden)
    for stream in streams:
        for _ in range(_WARM):
            await stream.round_s(request)
    for turn in range(max(2, 2 * rounds // _TURN)):
        seconds[turn % 2] += [await streams[turn % 2].round_s(request) for _ in range(_TURN)]
    for stream in streams:
        await stream.close()
    plain_s, tls_s = (statistics.median(each) for each in seconds)
    print(
        f"{sessions:>8} {request.ByteSize():>10,} {1e6 * plain_s:>12.0f} {1e6 * tls_s:>8.0f} "
        f"{1e6 * (tls_s - plain_s):>12.0f} {tls_s / plain_s:>7.2f}"
    )


def main(rounds: int, hidden: int) -> None:
    """Make certificates, start the other process, and measure rounds of three sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        now = datetime.datetime.now(datetime.UTC)
        authority = Authority.new("tls cost", days=1, now=now)
        pair = authority.sign(["dspark.internal"], days=1, now=now)
        (folder / "authority.pem").write_bytes(authority.pair.certificate)
        (folder / "certificate.pem").write_bytes(pair.certificate)
        (folder / "key.pem").write_bytes(pair.key)
        command = [sys.executable, "-m", "e2e.tls_cost", "--serve", name]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            addresses = [child.stdout.readline().strip() for _ in range(2)]
            print("sessions  bytes up   plain us   TLS us   TLS costs us   ratio")
            for sessions in (1, 8, 64):
                asyncio.run(
                    measure(addresses, folder, sessions=sessions, hidden=hidden, rounds=rounds)
                )
            child.stdin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400, help="of each kind and size")
    parser.add_argument("--hidden", type=int, default=256, help="the target's hidden size")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
    else:
        main(given.rounds, given.hidden)
