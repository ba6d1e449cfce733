"""The HTTP application: who asks, what for, and the answer."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dspark.controller.api import refusals, view
from dspark.controller.api.answers import (
    History,
    PoolShape,
    ReplicasState,
    TokenList,
    TokenShape,
)
from dspark.controller.api.asks import (
    ClearQuery,
    DryRun,
    HistoryQuery,
    ReleaseQuery,
    RollBack,
    SetPolicy,
    SetReplicas,
    TrendQuery,
    TryOut,
    WhatIf,
)
from dspark.controller.api.endpoints import ENDPOINTS, Endpoint
from dspark.controller.api.event_stream import as_text
from dspark.controller.api.refusals import Refusal
from dspark.controller.api.requests import (
    author_of,
    expected_version,
    read_body,
    read_query,
    require_own_host,
)
from dspark.controller.api.routing import Handler, make_app
from dspark.controller.api.supposing import Unpredictable, suppose
from dspark.controller.api.tokens import ApiRole, Caller, Tokens
from dspark.controller.api.trend import Trend
from dspark.controller.api.try_out import Trials
from dspark.controller.loop import Controller
from dspark.controller.policies import Ask, Conflict, LostRace
from dspark.controller.registry import UnknownPool
from dspark.controller.store import StoreLost, Superseded
from dspark.core.changes import Change
from dspark.core.ids import PoolName

MAX_LISTENERS = 32
_Served = Callable[[Request, Caller], Awaitable[Response]]


class ControlApi:
    """What the endpoints share.

    Args:
        controller: Decides.
        tokens: Who may ask.
    """

    def __init__(self, controller: Controller, tokens: Tokens) -> None:
        self._controller = controller
        self._tokens = tokens
        self._trials = Trials(controller.settings)
        self.trend = Trend()
        """Whoever leads has to run it."""
        self._listeners = 0
        self.stopping = asyncio.Event()
        """Set when listeners have to go."""

    @property
    def tokens_required(self) -> bool:
        """Whether a request needs a token."""
        return self._tokens.required

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return make_app([(endpoint, self._guarded(endpoint)) for endpoint in ENDPOINTS])

    async def fleet(self, request: Request, caller: Caller) -> Response:
        """Everything."""
        return _answer(view.fleet(self._controller, now_s=_now_s(), unix_s=time.time()))

    async def pool(self, request: Request, caller: Caller) -> Response:
        """One pool."""
        return _answer(self._pool(request.path_params["pool"]))

    async def budget(self, request: Request, caller: Caller) -> Response:
        """The budget and why."""
        pool = self._verifier_pool(request)
        return _answer(view.budget(self._controller, pool, unix_s=time.time()))

    async def policy(self, request: Request, caller: Caller) -> Response:
        """The policy in force."""
        state = view.policy_state(
            self._controller, self._verifier_pool(request), unix_s=time.time()
        )
        return _answer(state, etag=state.version)

    async def set_policy(self, request: Request, caller: Caller) -> Response:
        """Put a policy in force."""
        asked = await read_body(request, SetPolicy)
        if asked.policy.shadow and caller.role < ApiRole.ADMIN:
            raise refusals.forbidden(caller.role.name.lower(), "admin")
        pool, query = self._verifier_pool(request), read_query(request, DryRun)
        return self._change(
            request, caller, pool, asked.reason, query.dry_run,
            lambda ask: self._controller.set_policy(
                pool, asked.policy.policy(), ask, ttl_s=asked.ttl_s
            ),
        )  # fmt: skip

    async def clear_policy(self, request: Request, caller: Caller) -> Response:
        """Return to the default."""
        pool, query = self._verifier_pool(request), read_query(request, ClearQuery)
        return self._change(
            request, caller, pool, query.reason, query.dry_run,
            lambda ask: self._controller.clear_policy(pool, ask),
        )  # fmt: skip

    async def roll_back(self, request: Request, caller: Caller) -> Response:
        """Undo a change."""
        asked = await read_body(request, RollBack)
        pool, query = self._verifier_pool(request), read_query(request, DryRun)
        return self._change(
            request, caller, pool, asked.reason, query.dry_run,
            lambda ask: self._controller.roll_back_policy(pool, ask, number=asked.change),
        )  # fmt: skip

    async def replicas(self, request: Request, caller: Caller) -> Response:
        """How many replicas, and who asked."""
        return _answer(self._replicas(request))

    async def set_replicas(self, request: Request, caller: Caller) -> Response:
        """Ask for a number of replicas."""
        asked = await read_body(request, SetReplicas)
        return self._wish(
            request,
            lambda pool: self._controller.set_wanted(
                pool, asked.replicas, author=caller.name or author_of(request),
                reason=asked.reason, unix_s=time.time(),
            ),
        )  # fmt: skip

    async def release_replicas(self, request: Request, caller: Caller) -> Response:
        """Take a wish back."""
        query = read_query(request, ReleaseQuery)
        author = caller.name or author_of(request)
        return self._wish(
            request,
            lambda pool: self._controller.release_wanted(
                pool, author=author, reason=query.reason
            ),
        )  # fmt: skip

    async def what_if(self, request: Request, caller: Caller) -> Response:
        """Predict."""
        asked = await read_body(request, WhatIf)
        pool = self._verifier_pool(request)
        try:
            return _answer(suppose(self._controller, pool, asked, unix_s=time.time()))
        except Unpredictable as error:
            raise refusals.conflict(
                f"nothing can be predicted: {error}", "serve some requests with drafting, then ask"
            ) from None
        except ValueError as error:
            raise refusals.invalid(str(error)) from None

    async def curves(self, request: Request, caller: Caller) -> Response:
        """Every curve."""
        return _answer(view.curves(self._controller))

    async def history(self, request: Request, caller: Caller) -> Response:
        """Every change."""
        query = read_query(request, HistoryQuery)
        pool = None if query.pool is None else PoolName(query.pool)
        changes = [
            view.change(change)
            for change in self._controller.policies.history(pool)
            if query.before is None or change.number < query.before
        ]
        return _answer(History(changes=changes[: query.limit]))

    async def samples(self, request: Request, caller: Caller) -> Response:
        """The last minutes."""
        return _answer(self.trend.since(read_query(request, TrendQuery).after))

    async def try_out(self, request: Request, caller: Caller) -> Response:
        """One request, and how it was drafted."""
        asked = await read_body(request, TryOut)
        replicas = self._controller.registry.replicas()
        model = next((replica.compatibility.model for replica in replicas), None)
        events = self._trials.run(asked, model)
        await anext(events)  # whatever fails until here has a status of its own
        return StreamingResponse(events, media_type="text/event-stream")

    async def events(self, request: Request, caller: Caller) -> Response:
        """Server-sent events: from the one after ``last-event-id``, or from now on."""
        if self._listeners >= MAX_LISTENERS:
            raise Refusal(
                429, "too_many_listeners", f"{MAX_LISTENERS} listen already", "try again later",
                headers={"retry-after": "10"},
            )  # fmt: skip
        newest = self._controller.events.newest
        last = request.headers.get("last-event-id", "")
        after = int(last) if re.fullmatch(r"\d{1,15}", last) else newest
        # One of a former process may be ahead of us.
        events = self._listening(after if after <= newest else 0)
        return StreamingResponse(events, media_type="text/event-stream")

    async def tokens(self, request: Request, caller: Caller) -> Response:
        """Names and roles."""
        shapes = [
            TokenShape(name=token.name, role=token.role)
            for token in self._controller.settings.api_tokens
        ]
        return _answer(TokenList(tokens=shapes))

    async def _listening(self, after: int) -> AsyncIterator[str]:
        self._listeners += 1
        try:
            async for text in as_text(self._controller.events, after, self.stopping):
                yield text
        finally:
            self._listeners -= 1

    def _guarded(self, endpoint: Endpoint) -> Handler:
        handler: _Served = getattr(self, endpoint.name)

        async def serve(request: Request) -> Response:
            if not self._tokens.required:
                require_own_host(request)
            caller = self._tokens.caller(request.headers.get("authorization"))
            if caller is None:
                raise refusals.unauthenticated()
            if caller.role < endpoint.role:
                raise refusals.forbidden(caller.role.name.lower(), endpoint.role.name.lower())
            read_query(request, endpoint.query)
            if not (self._controller.leading or endpoint.on_standby):
                raise refusals.on_standby(await self._leader())
            return await handler(request, caller)

        return serve

    async def _leader(self) -> Mapping[str, str] | None:
        with contextlib.suppress(StoreLost):
            return await asyncio.to_thread(self._controller.leader)
        return None

    def _change(
        self,
        request: Request,
        caller: Caller,
        pool: PoolName,
        reason: str,
        dry_run: bool,
        decide: Callable[[Ask], Change],
    ) -> Response:
        ask = Ask(
            author=caller.name or author_of(request),
            reason=reason,
            unix_s=time.time(),
            expected=expected_version(request),
            dry_run=dry_run,
        )
        try:
            made = decide(ask)
        except LostRace as error:
            version = self._controller.policies.version(pool)
            raise refusals.lost_race(str(error), version) from None
        except (Conflict, Superseded) as error:
            raise refusals.conflict(str(error)) from None
        except StoreLost as error:
            raise refusals.store_lost(str(error)) from None
        etag = self._controller.policies.version(pool)
        return _answer(view.changed(self._controller, made, dry_run=dry_run), etag=etag)

    def _wish(self, request: Request, decide: Callable[[PoolName], int]) -> Response:
        try:
            decide(PoolName(request.path_params["pool"]))
        except UnknownPool as error:
            raise refusals.unknown_pool(str(error)) from None
        except Superseded as error:
            raise refusals.conflict(str(error)) from None
        except StoreLost as error:
            raise refusals.store_lost(str(error)) from None
        return _answer(self._replicas(request))

    def _replicas(self, request: Request) -> ReplicasState:
        pool = self._pool(request.path_params["pool"])
        return view.replicas(self._controller, pool)

    def _verifier_pool(self, request: Request) -> PoolName:
        try:
            return self._controller.verifier_pool(request.path_params["pool"])
        except UnknownPool as error:
            raise refusals.unknown_pool(str(error)) from None
        except Conflict as error:
            raise refusals.conflict(str(error), "name a verifier pool") from None

    def _pool(self, name: str) -> PoolShape:
        pools = view.fleet(self._controller, now_s=_now_s(), unix_s=time.time()).pools
        for pool in pools:
            if pool.name == name:
                return pool
        known = ", ".join(pool.name for pool in pools) or "none yet"
        raise refusals.unknown_pool(f"no pool is called {name!r}; known pools: {known}")


def _answer(body: BaseModel, *, etag: int | None = None) -> Response:
    headers = {} if etag is None else {"etag": f'"{etag}"'}
    return Response(body.model_dump_json(), media_type="application/json", headers=headers)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
