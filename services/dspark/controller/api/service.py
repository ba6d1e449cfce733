"""ControlApiService: the control API by gRPC.

Every call becomes a request to the HTTP application, in this process: authentication, refusals and
decisions are those of HTTP because they are the same ones.  Only events are read directly, since
they never end.
"""

import ipaddress
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, unquote

import grpc
import httpx
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from grpc import aio

from dspark.controller.api.app import MAX_LISTENERS, ControlApi
from dspark.controller.events import Events
from dspark.wire.v1 import control_api_pb2 as pb
from dspark.wire.v1.control_api_pb2_grpc import ControlApiServiceServicer

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ControlApiService"].full_name

_HEADERS = ("authorization", "x-dspark-author")
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    412: grpc.StatusCode.ABORTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_Answer = TypeVar("_Answer", bound=Message)
_Context = aio.ServicerContext[Any, Any]


class ControlApiService(ControlApiServiceServicer):
    """See control_api.proto.

    Args:
        api: What HTTP serves.
        events: What happens.
    """

    def __init__(self, api: ControlApi, events: Events) -> None:
        self._api = api
        self._events = events
        self._app = api.app()
        self._listeners = 0

    async def GetFleet(self, request: pb.ApiFleetRequest, context: _Context) -> pb.ApiFleet:
        """Every pool."""
        return await self._ask(context, pb.ApiFleet(), "GET", "/v1/fleet")

    async def GetPool(self, request: pb.ApiPoolRequest, context: _Context) -> pb.ApiPool:
        """One pool."""
        return await self._ask(context, pb.ApiPool(), "GET", "", pool=request.pool)

    async def GetBudget(self, request: pb.ApiPoolRequest, context: _Context) -> pb.ApiBudget:
        """The budget, and why."""
        return await self._ask(context, pb.ApiBudget(), "GET", "/budget", pool=request.pool)

    async def GetPolicy(self, request: pb.ApiPoolRequest, context: _Context) -> pb.ApiPolicyState:
        """The policy in force."""
        return await self._ask(context, pb.ApiPolicyState(), "GET", "/policy", pool=request.pool)

    async def SetPolicy(self, request: pb.ApiSetPolicyRequest, context: _Context) -> pb.ApiChanged:
        """Put a policy in force."""
        body = {"policy": {}, **_fields(request, "policy", "reason", "ttl_s")}
        return await self._change(context, "PUT", "/policy", request, body=body)

    async def ClearPolicy(
        self, request: pb.ApiClearPolicyRequest, context: _Context
    ) -> pb.ApiChanged:
        """Return to the default policy."""
        query = {"reason": request.reason}
        return await self._change(context, "DELETE", "/policy", request, query=query)

    async def RollBackPolicy(
        self, request: pb.ApiRollBackPolicyRequest, context: _Context
    ) -> pb.ApiChanged:
        """Undo a change."""
        body = _fields(request, "reason", "change")
        return await self._change(context, "POST", "/policy/rollback", request, body=body)

    async def WhatIf(self, request: pb.ApiWhatIfRequest, context: _Context) -> pb.ApiOutlooks:
        """Predict."""
        body = _fields(request, "policy", "replicas", "sessions")
        answer = pb.ApiOutlooks()
        return await self._ask(context, answer, "POST", "/whatif", pool=request.pool, body=body)

    async def ListCurves(self, request: pb.ApiCurvesRequest, context: _Context) -> pb.ApiCurves:
        """Every curve."""
        return await self._ask(context, pb.ApiCurves(), "GET", "/v1/curves")

    async def ListChanges(self, request: pb.ApiChangesRequest, context: _Context) -> pb.ApiHistory:
        """Every change."""
        query = _fields(request, "pool", "limit", "before")
        return await self._ask(context, pb.ApiHistory(), "GET", "/v1/changes", query=query)

    async def ListTokens(self, request: pb.ApiTokensRequest, context: _Context) -> pb.ApiTokens:
        """Names and roles."""
        return await self._ask(context, pb.ApiTokens(), "GET", "/v1/tokens")

    async def WatchEvents(
        self, request: pb.ApiEventsRequest, context: _Context
    ) -> AsyncIterator[pb.ApiEvent]:
        """Send what happens until the caller goes."""
        # Who may read the fleet may hear of it.
        await self._ask(context, pb.ApiFleet(), "GET", "/v1/fleet")
        if self._listeners >= MAX_LISTENERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{MAX_LISTENERS} listen already; try again later",
            )
        after = request.after if request.HasField("after") else self._events.newest
        self._listeners += 1
        try:
            async for event in self._events.listen(min(after, self._events.newest)):
                yield pb.ApiEvent(
                    number=event.number, kind=event.kind, pool=event.pool, text=event.text
                )
        finally:
            self._listeners -= 1

    async def _change(
        self,
        context: _Context,
        method: str,
        path: str,
        request: pb.ApiSetPolicyRequest | pb.ApiClearPolicyRequest | pb.ApiRollBackPolicyRequest,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> pb.ApiChanged:
        expected = request.expected_version if request.HasField("expected_version") else None
        return await self._ask(
            context, pb.ApiChanged(), method, path, pool=request.pool, body=body,
            query={**(query or {}), "dry_run": str(request.dry_run).lower()},
            headers={} if expected is None else {"if-match": f'"{expected}"'},
        )  # fmt: skip

    async def _ask(
        self,
        context: _Context,
        answer: _Answer,
        method: str,
        path: str,
        *,
        pool: str | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        """Send a request to the HTTP application and return its answer as ``answer``."""
        if not self._api.tokens_required and not _is_local(context.peer()):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "without tokens only this machine is served; configure controller.api_tokens",
            )
        if pool is not None:
            if not pool:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "pool is empty: name one")
            path = f"/v1/pools/{quote(pool, safe='')}{path}"
        given = {
            str(key): str(value)
            for key, value in context.invocation_metadata() or ()
            if key in _HEADERS
        }
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = await client.request(
                method,
                path,
                params=dict(query or {}),
                json=body,
                headers={**given, **(headers or {})},
            )
        if found.status_code != httpx.codes.OK:
            await _refuse(context, found)
        return ParseDict(found.json(), answer, ignore_unknown_fields=True)


async def _refuse(context: _Context, found: httpx.Response) -> NoReturn:
    error = found.json()["error"]
    code = _CODES.get(found.status_code, grpc.StatusCode.INTERNAL)
    await context.abort(code, f"{error['message']}; {error['hint']}")
    raise AssertionError  # abort does not return


def _fields(request: Message, *names: str) -> dict[str, Any]:
    """Return those of the fields that are set, as JSON."""
    given = MessageToDict(request, preserving_proto_field_name=True)
    return {name: given[name] for name in names if name in given}


def _is_local(peer: str) -> bool:
    """Whether a peer like ``ipv4:127.0.0.1:5`` or ``ipv6:%5B::1%5D:5`` is of this machine."""
    kind, _, address = unquote(peer).partition(":")
    if kind == "unix":
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
