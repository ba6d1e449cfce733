"""A controller or a replica as a process of its own, without Ray.

Processes are forked from a server that has imported their code once, so one more costs
milliseconds.  A process ends when its pipe does: with ``stop``, or with the test that began it.
"""

import asyncio
import itertools
import logging
import multiprocessing
import socket
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dspark.config.controller import ControllerSettings
from dspark.config.drafter import DrafterSettings
from dspark.config.endpoint import EndpointSettings
from dspark.config.model import ModelSettings
from dspark.config.prefill import PrefillSettings
from dspark.config.tls import TlsSettings
from dspark.config.verifier import VerifierSettings
from dspark.controller.process import serve
from dspark.core.draft import DraftBlock, Proposal, SessionRound
from dspark.core.draft_laws import DraftLaws
from dspark.drafter import engine as drafter_engine
from dspark.drafter.replica import DrafterReplica
from dspark.model.ragged_target import ChoosingSegment, RaggedTarget
from dspark.prefill.replica import PrefillReplica
from dspark.verifier import replica as verifier_replica
from dspark.verifier.replica import VerifierReplica

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["e2e.replica_process"])
_START_S, _STOP_S = 120.0, 20.0

_REPLICAS: Mapping[str, tuple[Any, Any]] = {
    "prefill": (PrefillReplica, PrefillSettings),
    "drafter": (DrafterReplica, DrafterSettings),
    "verifier": (VerifierReplica, VerifierSettings),
}


class ReplicaProcess:
    """One process, from its start to its end.

    Args:
        role: ``controller``, ``prefill``, ``drafter`` or ``verifier``.
        name: Of the replica.
        settings: Of the role.
        model: The pair; a controller has none.
        controller: Its address, for all others.
        tls: Settings of TLS, for all others.
        wrong: A mistake of ``MISTAKES`` that this process makes, for negative controls.
    """

    def __init__(
        self,
        role: str,
        name: str,
        settings: Mapping[str, object],
        *,
        model: ModelSettings | None = None,
        controller: str = "",
        tls: TlsSettings | None = None,
        wrong: str | None = None,
    ) -> None:
        self.name = name
        self._pipe, theirs = _CONTEXT.Pipe()
        dumped = None if model is None else model.model_dump(mode="json")
        self._process = _CONTEXT.Process(
            target=_main,
            args=(role, name, dict(settings), dumped, controller, tls, wrong, theirs),
            name=name,
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def ready(self) -> None:
        """Wait until it serves; RuntimeError with its own words where it does not."""
        try:
            said = await asyncio.to_thread(
                lambda: self._pipe.recv() if self._pipe.poll(_START_S) else "no answer"
            )
        except EOFError:
            said = "it died"
        if said is not None:
            raise RuntimeError(f"{self.name} does not start: {said}")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._process.kill()
        self._process.join(_STOP_S)
        self._pipe.close()

    async def stop(self) -> None:
        """End it in order."""
        self._pipe.close()
        await asyncio.to_thread(self._process.join, _STOP_S)
        if self._process.exitcode is None:
            self._process.kill()
        assert self._process.exitcode == 0, f"{self.name} ended with {self._process.exitcode}"


def _main(
    role: str,
    name: str,
    settings: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    controller: str,
    tls: TlsSettings | None,
    wrong: str | None,
    pipe: Connection,
) -> None:
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(message)s")
    if wrong is not None:
        MISTAKES[wrong]()
    asyncio.run(_run(role, name, settings, model, controller, tls, pipe))


async def _run(
    role: str,
    name: str,
    settings: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    controller: str,
    tls: TlsSettings | None,
    pipe: Connection,
) -> None:
    ended = asyncio.Event()
    # Nothing is ever sent: the pipe becomes readable when its other end is closed.
    asyncio.get_running_loop().add_reader(pipe.fileno(), ended.set)
    try:
        if role == "controller":
            serving = asyncio.create_task(serve(ControllerSettings(**settings), ended))
            while not serving.done() and not _listening(settings["port"]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            if not serving.done():
                pipe.send(None)
            await serving
            return
        kind, settings_of = _REPLICAS[role]
        replica = kind(
            ModelSettings.model_validate(model),
            EndpointSettings(controller=controller, tls=tls),
            settings_of(**settings),
            name=name,
        )
        await replica.start()
    except Exception as error:
        pipe.send(repr(error))
        raise
    pipe.send(None)
    await ended.wait()
    replica.check_health()
    await replica.drain()
    await replica.stop()


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- mistakes, for negative controls -----------------------------------------------------------


class _CredulousTarget(RaggedTarget):
    """Takes every draft for its own token."""

    def step(self, segments: Sequence[ChoosingSegment]) -> list[tuple[int, ...]]:
        own = super().step(segments)
        return [
            tuple(
                token if draft is None else draft
                for token, draft in itertools.zip_longest(tokens, part.tokens[1:])
            )
            if part.choose == len(part.tokens) and part.laws is None
            else tokens
            for part, tokens in zip(segments, own, strict=True)
        ]


def _believe_drafts() -> None:
    verifier_replica.RaggedTarget = _CredulousTarget  # type: ignore[misc]


def _cut_the_shipped_copy() -> None:
    """Drafts are drawn from whole laws; of each, the token drawn and the likeliest are shipped."""
    honest = drafter_engine._block

    def cut(part: SessionRound, proposal: Proposal) -> DraftBlock:
        if proposal.laws is None:
            return honest(part, proposal)
        ids, weights, first = [], [], 0
        for token, count in zip(proposal.tokens, proposal.laws.counts, strict=True):
            law_ids = proposal.laws.ids[first : first + count]
            law = proposal.laws.weights[first : first + count].astype(np.float64)
            first += count
            kept = np.isin(law_ids, [token, law_ids[law.argmax()]])
            ids.append(law_ids[kept])
            weights.append((law[kept] / law[kept].sum()).astype(np.float16))
        laws = DraftLaws(
            counts=tuple(map(len, ids)), ids=np.concatenate(ids), weights=np.concatenate(weights)
        )
        return honest(
            part,
            Proposal(tokens=proposal.tokens, confidences=proposal.confidences, laws=laws),
        )

    drafter_engine._block = cut


MISTAKES: Mapping[str, Callable[[], None]] = {
    "believes drafts": _believe_drafts,
    "cuts the shipped copy": _cut_the_shipped_copy,
}
