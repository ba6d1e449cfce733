"""A gateway that streams a script, behind real HTTP, in a thread of its own."""

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dspark.rpc.http import HttpServer, bind

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

STEPS: tuple[dict[str, Any], ...] = (
    {"committed": ["def"], "draft": [], "verified": 0, "accepted": 0},
    {
        "committed": [" f", "(", HOSTILE],
        "draft": [
            {"token": " f", "confidence": 0.95},
            {"token": "(", "confidence": 0.8},
            {"token": "x", "confidence": 0.4},
            {"token": ")", "confidence": 0.2},
        ],
        "verified": 3,
        "accepted": 2,
    },
)


@dataclass
class Gateway:
    """What it was asked, and what it does.

    Attributes:
        url: Where it listens.
        asked: Bodies.
        refusal: (status, message) to answer with, or None.
        breaks: Whether the connection ends in the middle of a stream.
        waits: Whether streams wait after their first step.
        left: Set when a client leaves a stream.
    """

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    breaks: bool = False
    waits: bool = False
    left: threading.Event = field(default_factory=threading.Event)

    async def complete(self, request: Request) -> Response:
        self.asked.append(await request.json())
        if self.refusal is not None:
            status, message = self.refusal
            return JSONResponse({"error": {"message": message}}, status_code=status)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        try:
            for step in STEPS:
                choice = {"index": 0, "text": "".join(step["committed"]), "speculation": step}
                yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                if self.breaks:
                    raise ConnectionError("on purpose")
                while self.waits:  # noqa: ASYNC110  # cleared by another thread
                    await asyncio.sleep(0.01)
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 4}})}\n\n"
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


@contextmanager
def a_gateway(context: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """Serve one, over HTTPS with a context."""
    gateway = Gateway()
    app = Starlette(routes=[Route("/v1/completions", gateway.complete, methods=["POST"])])
    with bind("127.0.0.1", 0, what="a test") as sock:
        scheme = "http" if context is None else "https"
        gateway.url = f"{scheme}://127.0.0.1:{sock.getsockname()[1]}"
        server = HttpServer(
            uvicorn.Config(
                app,
                ssl_context_factory=None if context is None else lambda *_: context,
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[sock]),))
        thread.start()
        try:
            yield gateway
        finally:
            server.should_exit = True
            thread.join(timeout=10.0)
