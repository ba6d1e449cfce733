"""The fleet as this gateway knows it: from the controller, and from memory without one.

What was last heard stays until something newer comes.  A replica that is gone meanwhile is found
out by calling it; that costs a stream a moment, never a token.
"""

import asyncio
import json
import logging
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path

from google.protobuf import json_format

from dspark.core.fleet import Fleet
from dspark.rpc.control_client import ControllerLink
from dspark.rpc.credentials import Credentials
from dspark.rpc.watch import Latest
from dspark.wire.fleet import fleet_from_wire, fleet_to_wire
from dspark.wire.v1 import control_pb2

log = logging.getLogger(__name__)

_CARRY_S = 5.0
"""How long a restarted controller is given to hear of the replicas again."""

_WRITE_EVERY_S = 5.0
"""The file is for a start without a controller: it may be this old."""


def restarted(before: Fleet, heard: Fleet) -> bool:
    """Whether the controller began anew between the two: another term, or versions going back."""
    return heard.term != before.term or heard.version < before.version


def with_missing(heard: Fleet, known: Fleet) -> Fleet:
    """Return ``heard`` and those members of ``known`` that it does not have."""
    names = {member.replica.name for member in heard.members}
    missing = tuple(member for member in known.members if member.replica.name not in names)
    return replace(heard, members=heard.members + missing)


class FleetView:
    """Keeps ``fleet`` at the newest known state.

    Args:
        controller: Address of the controller.
        watcher: Name of this gateway, for the controller's log.
        file: Where the fleet is kept over restarts, or None.
        credentials: For mutual TLS; None: plaintext.
    """

    def __init__(
        self,
        controller: str,
        *,
        watcher: str,
        file: str | None,
        credentials: Credentials | None = None,
    ) -> None:
        self._file = None if file is None else Path(file).expanduser()
        self.fleet: Latest[Fleet] = Latest(None if self._file is None else read_fleet(self._file))
        self._link = ControllerLink(controller, watcher=watcher, credentials=credentials)
        self._tasks: list[asyncio.Task[None]] = []
        self._settling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; needs a running event loop."""
        self._link.start_watching_fleet()
        self._tasks.append(asyncio.create_task(self._follow()))
        if self._file is not None:
            self._tasks.append(asyncio.create_task(self._write(self._file)))

    async def close(self) -> None:
        """End every task, and the channel."""
        if self._settling is not None:
            self._settling.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    async def _follow(self) -> None:
        """Take every snapshot; after a restart of the controller, with what it misses yet."""
        now_s = asyncio.get_running_loop().time
        before: Fleet | None = None
        known: Fleet | None = None
        until_s = 0.0
        async for heard in self._link.fleet.watch():
            if before is not None and restarted(before, heard):
                log.info("the controller began anew; known replicas are kept for %g s", _CARRY_S)
                known, until_s = self.fleet.value, now_s() + _CARRY_S
                self._settle_later()
            before = heard
            if known is not None and now_s() >= until_s:
                known = None
            self.fleet.set(heard if known is None else with_missing(heard, known))

    def _settle_later(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(_CARRY_S, self._settle)

    def _settle(self) -> None:
        """Forget the kept replicas that did not come back."""
        if self._link.fleet.value is not None:
            self.fleet.set(self._link.fleet.value)

    async def _write(self, file: Path) -> None:
        async for fleet in self.fleet.watch():
            try:
                write_fleet(file, fleet)
            except OSError as error:
                log.warning("the fleet cannot be kept in %s: %s", file, error)
            await asyncio.sleep(_WRITE_EVERY_S)


def read_fleet(file: Path) -> Fleet | None:
    """Return the fleet kept in ``file``, or None when there is none that can be read."""
    try:
        text = file.read_text(encoding="utf-8")
        return fleet_from_wire(json_format.Parse(text, control_pb2.Fleet()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, json_format.ParseError) as error:
        log.warning("the fleet kept in %s cannot be read: %s", file, error)
        return None


def write_fleet(file: Path, fleet: Fleet) -> None:
    """Replace ``file`` as a whole, so that no reader sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".new")
    draft.write_text(json_format.MessageToJson(fleet_to_wire(fleet)), encoding="utf-8")
    draft.replace(file)


def fleet_json(fleet: Fleet | None) -> bytes:
    """Return the fleet for people: everything but the samples in the load reports."""
    if fleet is None:
        return b'{"term": 0, "version": 0, "members": [], "pools": []}'
    shown = replace(
        fleet,
        members=tuple(
            replace(member, load=member.load and replace(member.load, survivals=()))
            for member in fleet.members
        ),
    )
    return json.dumps(asdict(shown), default=_plain).encode()


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{value!r} has no JSON form")
