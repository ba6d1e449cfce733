"""What our message handling costs a draft round: ``python -m e2e.message_cost [--rounds 400]``.

Between two processes, with a drafter that drafts at once, rounds go as they do in a running system:
from an engine's thread through the verifier's links, over gRPC, through the drafter's service, its
engine's queue and thread, and back.  In turns with them go messages of the same sizes over a bare
gRPC stream that answers at once.  The difference of the medians is what is ours.
"""

import argparse
import asyncio
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import Future

import grpc
import numpy as np

from dspark.config.endpoint import EndpointSettings
from dspark.core.draft import DraftRequest, Proposal, Round, Rows, SessionRound
from dspark.core.fleet import Compatibility, Fleet, Member, Replica, ReplicaState, Role
from dspark.core.ids import Incarnation, PoolName, ReplicaName, SessionId, Term
from dspark.core.sampling import Sampling
from dspark.drafter.engine import DrafterEngine
from dspark.drafter.service import DraftService
from dspark.drafting.events import Connected, DraftEvent, Replied
from dspark.drafting.links import DrafterLinks
from dspark.rpc.channel import open_channel
from dspark.rpc.handshake import Greeter
from dspark.rpc.server import RpcServer
from dspark.rpc.watch import Latest
from dspark.wire.draft import round_to_wire
from dspark.wire.v1 import draft_pb2_grpc

_ROWS = 4  # of a session and round: about the demo's accepted length
_GAMMA = 7
_TURN = 20
_WARM = 40
_LONG_S = 60.0
_DRAFTER = ReplicaName("drafter")
_RAW = "/raw/Echo"
_PAIR = Compatibility(
    protocol_version=1,
    model="echo",
    target_digest="echo",
    tokenizer_digest="echo",
    vocab_size=4096,
    block_size=_GAMMA,
    target_layer_ids=(1,),
    projection_id="echo",
    kv_dtype="float16",
    page_tokens=16,
    rows_dtype="float16",
)


class Instant:
    """A drafting model that counts rows and drafts the same block for everybody, at once."""

    gamma = _GAMMA

    def __init__(self) -> None:
        self._rows: dict[Hashable, int] = {}
        self._block = Proposal(tokens=(1000,) * _GAMMA, confidences=(0.8,) * _GAMMA)

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        self._rows[key] = 0
        return True

    def append(self, key: Hashable, start: int, rows: Rows) -> int:
        if start != self._rows[key]:
            raise ValueError(f"rows start at {start}, {self._rows[key]} are cached")
        self._rows[key] += len(rows)
        return self._rows[key]

    def cached(self, key: Hashable) -> int | None:
        return self._rows.get(key)

    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._block] * len(requests)

    def close(self, key: Hashable) -> None:
        self._rows.pop(key, None)


async def serve() -> None:
    """Serve a drafter and the bare stream; print the address; end with the input."""
    engine = DrafterEngine(
        Instant(),
        incarnation=Incarnation(1),
        pool="drafter",
        max_batch_sessions=64,
        max_pending_rounds=8,
    )
    greeter = Greeter(_PAIR, replica=_DRAFTER, incarnation=Incarnation(1))
    service = DraftService(
        engine,
        greeter,
        incarnation=Incarnation(1),
        projection_id=_PAIR.projection_id,
        vocab_size=_PAIR.vocab_size,
    )

    async def echo(messages: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for message in messages:  # its first eight bytes say how long the answer is
            yield bytes(int.from_bytes(message[:8], "little"))

    server = RpcServer(EndpointSettings(), ["draft"])
    server.add(lambda it: draft_pb2_grpc.add_DraftServiceServicer_to_server(service, it))
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add(
        lambda it: it.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("raw", handlers)]
        )
    )
    engine.start()
    print(await server.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    engine.stop()


class Ours:
    """Rounds as a verifier's engine sends them: from a thread that is not the event loop's."""

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop, hidden: int) -> None:
        self._loop = loop
        self._heard: queue.SimpleQueue[DraftEvent] = queue.SimpleQueue()
        self._rows = np.ones((_ROWS, hidden), np.float16)
        self._number = 0
        replica = Replica(
            name=_DRAFTER,
            incarnation=Incarnation(1),
            pool=PoolName("drafter"),
            role=Role.DRAFTER,
            address=address,
            state=ReplicaState.READY,
            compatibility=_PAIR,
        )
        fleet = Latest(Fleet(term=Term(1), version=1, members=(Member(replica=replica),)))

        async def link() -> DrafterLinks:
            return DrafterLinks(
                fleet,
                replica="verifier",
                incarnation=Incarnation(1),
                compatibility=_PAIR,
                post=self._heard.put,
                reconnect_s=1.0,
            )

        self._links = asyncio.run_coroutine_threadsafe(link(), loop).result(_LONG_S)
        assert isinstance(self._heard.get(timeout=_LONG_S), Connected)

    def begin(self, sessions: range) -> "Callable[[], float]":
        """Open sessions; return what takes one round of them, in seconds."""
        lengths = dict.fromkeys(sessions, 0)

        def round_(opens: Sampling | None = None) -> Round:
            self._number += 1
            return Round(
                number=self._number,
                sessions=[
                    SessionRound(
                        session=SessionId(session),
                        base_length=length + _ROWS,
                        anchor=7,
                        rows_start=length,
                        rows=self._rows,
                        max_tokens=_GAMMA,
                        opens=opens,
                    )
                    for session, length in lengths.items()
                ],
            )

        def one(opens: Sampling | None = None) -> float:
            asked = round_(opens)
            began_s = time.perf_counter()
            self._links.send(_DRAFTER, asked)
            heard = self._heard.get(timeout=_LONG_S)
            took_s = time.perf_counter() - began_s
            assert isinstance(heard, Replied)
            assert [len(block.tokens) for block in heard.reply.blocks] == [_GAMMA] * len(sessions)
            self.sizes = (round_to_wire(asked).ByteSize(), heard.num_bytes)
            for session in sessions:
                lengths[session] += _ROWS
            return took_s

        one(Sampling())
        return one

    def close(self) -> None:
        """End the links."""
        asyncio.run_coroutine_threadsafe(self._links.close(), self._loop).result(_LONG_S)


class Raw:
    """A bare bidirectional stream of bytes, timed on its event loop."""

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

        async def link() -> None:
            self._channel = open_channel(address)
            self._call = self._channel.stream_stream(_RAW)(timeout=_LONG_S * 10)

        asyncio.run_coroutine_threadsafe(link(), loop).result(_LONG_S)

    def turn(self, sizes: tuple[int, int], count: int) -> list[float]:
        """Return the seconds of ``count`` messages of these sizes and their answers."""
        up, down = sizes
        message = down.to_bytes(8, "little") + bytes(up - 8)

        async def all_of_them() -> list[float]:
            seconds = []
            for _ in range(count):
                began_s = time.perf_counter()
                await self._call.write(message)
                answer = await self._call.read()
                seconds.append(time.perf_counter() - began_s)
                assert len(answer) == down
            return seconds

        done: Future[list[float]] = asyncio.run_coroutine_threadsafe(all_of_them(), self._loop)
        return done.result(_LONG_S)

    def close(self) -> None:
        """End the stream."""
        self._call.cancel()
        asyncio.run_coroutine_threadsafe(self._channel.close(), self._loop).result(_LONG_S)


def measure(ours: Ours, raw: Raw, sessions: range, rounds: int) -> None:
    """Print one line for rounds of these sessions."""
    one = ours.begin(sessions)
    for _ in range(_WARM):
        one()
    raw.turn(ours.sizes, _WARM)
    own_s: list[float] = []
    raw_s: list[float] = []
    for _ in range(max(1, rounds // _TURN)):
        own_s += [one() for _ in range(_TURN)]
        raw_s += raw.turn(ours.sizes, _TURN)
    own_ms, raw_ms = (1e3 * statistics.median(each) for each in (own_s, raw_s))
    up, down = ours.sizes
    print(
        f"{len(sessions):>8} {up:>10,} {down:>10,} {own_ms:>8.2f} {raw_ms:>8.2f} "
        f"{own_ms - raw_ms:>14.2f}"
    )


def main(rounds: int, hidden: int) -> None:
    """Start the drafter's process and measure rounds of three sizes."""
    command = [sys.executable, "-m", "e2e.message_cost", "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        ours, raw = Ours(address, loop, hidden), Raw(address, loop)
        print("sessions   bytes up bytes down  ours ms   raw ms  beyond raw ms")
        first = 1
        for count in (1, 8, 64):
            measure(ours, raw, range(first, first + count), rounds)
            first += count
        ours.close()
        raw.close()
        loop.call_soon_threadsafe(loop.stop)
        child.stdin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400, help="of each kind and size")
    parser.add_argument("--hidden", type=int, default=256, help="the target's hidden size")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
    else:
        main(given.rounds, given.hidden)
