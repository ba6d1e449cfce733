"""ASGI responses that live as long as their client: one JSON body, or server-sent events.

Nothing is sent before the first piece is there, so that whatever fails until then has a status
of its own.  When the client goes, the work is cancelled, and with it the call to the verifier.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dspark.gateway.choices import Choices
from dspark.gateway.errors import ApiError, internal, no_verifier
from dspark.gateway.logprobs import Json, WrittenLogprobs
from dspark.gateway.requests import Job
from dspark.gateway.shapes import Shape, WrittenChoice

log = logging.getLogger(__name__)

Lease = Callable[[], AbstractContextManager[asyncio.Event]]
"""Counts a request as in flight; the event asks it to end soon."""


class Answer(Response):
    """Runs a job for as long as its client is there."""

    def __init__(self, job: Job, choices: Choices, shape: Shape, lease: Lease) -> None:
        super().__init__()
        self._job = job
        self._choices = choices
        self._shape = shape
        self._lease = lease
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        with self._lease() as stopping:
            work = asyncio.create_task(self._work(scope, receive, send))
            gone = asyncio.create_task(_disconnected(receive))
            stop = asyncio.create_task(stopping.wait())
            tasks = (work, gone, stop)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if not work.cancelled():
                work.result()
            elif gone.cancelled() and not stop.cancelled():
                await self._fail(no_verifier("The server is stopping"), scope, receive, send)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._job.stream:
                await self._send_events(send)
            else:
                await JSONResponse(await self._whole())(scope, receive, send)
        except ApiError as error:
            await self._fail(error, scope, receive, send)
        except Exception:
            request_id = self._job.request_id
            log.exception("%s failed", request_id, extra={"request_id": request_id})
            await self._fail(internal("Internal error"), scope, receive, send)

    async def _whole(self) -> Json:
        texts: list[list[str]] = [[] for _ in self._job.generations]
        ids: list[list[int]] = [[] for _ in self._job.generations]
        logprobs: list[list[WrittenLogprobs]] = [[] for _ in self._job.generations]
        finishes = {}
        async with aclosing(self._choices.pieces()) as pieces:
            async for index, delta in pieces:
                texts[index].append(delta.text)
                ids[index].extend(delta.token_ids)
                logprobs[index].extend(delta.logprobs)
                if delta.finish is not None:
                    finishes[index] = delta.finish
        written = [
            WrittenChoice(
                text="".join(texts[index]),
                token_ids=tuple(ids[index]),
                finish=finishes[index],
                logprobs=tuple(logprobs[index]),
            )
            for index in range(len(self._job.generations))
        ]
        return self._shape.answer(written, self._choices.usage(), self._choices.metrics())

    async def _send_events(self, send: Send) -> None:
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                if not self._started:
                    self._started = True
                    await send(_START)
                await send(_event(chunk))
        await send(_END)

    async def _chunks(self) -> AsyncGenerator[Json, None]:
        opened = set()
        job, choices = self._job, self._choices
        async with aclosing(choices.pieces()) as pieces:
            async for index, delta in pieces:
                if index not in opened:
                    opened.add(index)
                    opening = self._shape.opening(index)
                    if opening is not None:
                        yield self._with_usage(opening)
                wanted = job.token_ids or job.continuous_usage or job.logprobs
                if delta.text or delta.finish or delta.step or (wanted and delta.token_ids):
                    yield self._with_usage(self._shape.chunk(index, delta))
        if job.include_usage:
            yield self._shape.closing(choices.usage(), choices.metrics())

    def _with_usage(self, chunk: Json) -> Json:
        if self._job.continuous_usage:
            return chunk | {"usage": self._choices.usage()}
        return chunk | {"usage": None} if self._job.include_usage else chunk

    async def _fail(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started:
            await send(_event(error.body()))
            await send(_END)
        else:
            await error_response(error)(scope, receive, send)


def error_response(error: ApiError) -> JSONResponse:
    """Return an error as a response of its own."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(value: Mapping[str, object]) -> dict[str, object]:
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True}


_START: dict[str, object] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}
_END: dict[str, object] = {
    "type": "http.response.body",
    "body": b"data: [DONE]\n\n",
    "more_body": False,
}
