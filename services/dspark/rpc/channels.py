"""Channels that are kept: one to each address."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from grpc import aio

from dspark.rpc.channel import open_channel
from dspark.rpc.credentials import Credentials


@dataclass(slots=True)
class _Kept:
    channel: aio.Channel
    certificate: int
    uses: int = 0


class Channels:
    """Opens a channel to an address once, and again when our certificate was replaced.

    A channel shows the certificate that it was opened with at every reconnect, so one that shows
    an old certificate takes no new calls, and ends with the last one that it has.
    """

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._newest: dict[str, _Kept] = {}
        self._outdated: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._newest) + len(self._outdated)

    @asynccontextmanager
    async def use(self, address: str) -> AsyncIterator[aio.Channel]:
        """Lend the channel to ``address`` for one call."""
        kept = await self._to(address)
        kept.uses += 1
        try:
            yield kept.channel
        finally:
            kept.uses -= 1
            await self._end_outdated()

    async def keep(self, addresses: Collection[str]) -> None:
        """Close the idle channels to all but ``addresses``."""
        for address in [each for each in self._newest if each not in addresses]:
            if not self._newest[address].uses:
                await self._newest.pop(address).channel.close(None)

    async def close(self) -> None:
        """Close every channel, used or not."""
        every = [*self._newest.values(), *self._outdated]
        self._newest.clear()
        self._outdated.clear()
        for kept in every:
            await kept.channel.close(None)

    async def _to(self, address: str) -> _Kept:
        certificate = 0 if self._credentials is None else self._credentials.number
        kept = self._newest.get(address)
        if kept is None or kept.certificate != certificate:
            fresh = _Kept(open_channel(address, self._credentials), certificate)
            self._newest[address] = fresh
            if kept is not None:
                self._outdated.append(kept)
                await self._end_outdated()
            return fresh
        return kept

    async def _end_outdated(self) -> None:
        idle = [kept for kept in self._outdated if not kept.uses]
        self._outdated = [kept for kept in self._outdated if kept.uses]
        for kept in idle:
            await kept.channel.close(None)
