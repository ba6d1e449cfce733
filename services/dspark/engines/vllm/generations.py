"""Generations on a vLLM engine, as the verifier's service wants them: submit, cancel.

Each is a task of the replica's event loop; vLLM schedules them in a process of its own.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import aclosing

from dspark.config.verifier import VerifierSettings
from dspark.core.generation import Generation
from dspark.core.ids import SessionId
from dspark.engines.vllm.ledger import Ledger
from dspark.engines.vllm.params import problem_of, wishes_for
from dspark.engines.vllm.port import EngineDied, EnginePort
from dspark.verifier.events import Sink
from dspark.verifier.refusals import refuse_excess, refuse_impossible

log = logging.getLogger(__name__)


class VllmGenerations:
    """Everything that runs on one engine; its replica's event loop only.

    Args:
        engine: The engine.
        ledger: Keeps the counts.
        settings: How many may run and wait.
        vocab_size: Tokens outside are refused.
        speculates: Whether the engine was started with speculation.
        noted: Whether its steps are told of by our proposer.
        listen: Takes what the line has brought, so that notes come before their tokens.
    """

    def __init__(
        self,
        engine: EnginePort,
        ledger: Ledger,
        *,
        settings: VerifierSettings,
        vocab_size: int,
        speculates: bool,
        noted: bool = True,
        listen: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._settings = settings
        self._vocab_size = vocab_size
        self._speculates = speculates
        self._noted = noted
        self._listen = listen
        self._ids = itertools.count(1)
        self._tasks: dict[SessionId, asyncio.Task[None]] = {}
        self._closed = False
        self.deliver: Callable[[], object] = lambda: None
        """Hands on what sinks were given."""

    @property
    def num_open(self) -> int:
        """Generations submitted and not ended."""
        return len(self._tasks)

    def prepare(self, generation: Generation) -> None:
        """Nothing: vLLM compiles grammars beside its steps."""

    def submit(self, generation: Generation, sink: Sink) -> SessionId:
        """Take a generation.

        Raises:
            NeverFits: It could not run here even alone.
            Overloaded: Too many are waiting already.
            ValueError: vLLM would not do what it asks for.
        """
        problem = problem_of(generation, speculates=self._speculates)
        if problem is not None:
            raise ValueError(problem)
        refuse_impossible(
            generation,
            capacity_tokens=self._engine.capacity.tokens,
            vocab_size=self._vocab_size,
        )
        refuse_excess(self.num_open, self._settings)
        session = SessionId(next(self._ids))
        if self._closed:
            sink.fail("the verifier stopped")
            self.deliver()
            return session
        self._tasks[session] = asyncio.create_task(self._run(session, generation, sink))
        return session

    def cancel(self, session: SessionId) -> None:
        """Drop a generation; unknown ones are ignored."""
        task = self._tasks.get(session)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel what is left; its streams fail."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, session: SessionId, generation: Generation, sink: Sink) -> None:
        try:
            await self._relay(session, generation, sink)
        except asyncio.CancelledError:
            sink.fail("the verifier stopped")  # heard by nobody where the caller left
        except EngineDied as error:
            sink.fail(str(error))
        except ValueError as error:
            sink.fail(str(error), anywhere=True)
        except Exception as error:  # one request's fault must not leave its stream waiting
            log.exception("request %s failed", generation.request_id)
            sink.fail(f"the engine failed: {error!r}")
        finally:
            self._ledger.close(session)
            del self._tasks[session]
            self.deliver()

    async def _relay(self, session: SessionId, generation: Generation, sink: Sink) -> None:
        account = self._ledger.open(session, generation)
        name = f"{session}-{generation.request_id}"
        outputs = self._engine.generate(generation, wishes_for(generation, session), name=name)
        async with aclosing(outputs):
            async for output in outputs:
                self._listen()
                account.stats.cached_prompt_tokens = output.cached_tokens
                if account.first and output.token_ids and self._noted:
                    self._ledger.first_token()
                begin = 0
                for count, draft in account.split(len(output.token_ids)):
                    part = slice(begin, begin + count)
                    begin += count
                    sink.commit(output.token_ids[part], account.stats, output.logprobs[part], draft)
                self.deliver()
                if output.accepted_histogram:
                    account.settle(output.accepted_histogram, output.verified_tokens)
                if output.finish is not None:
                    sink.finish(output.finish, account.stats)
                    return
        raise ValueError("vLLM ended the generation without a reason")
