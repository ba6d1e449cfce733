"""The control API by gRPC says what it says by HTTP."""

import asyncio
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, Union, get_args, get_origin

import grpc
import httpx
import pytest
from google.protobuf.descriptor import Descriptor
from pydantic import BaseModel

from dspark.config.controller import ApiToken, ControllerSettings
from dspark.config.endpoint import EndpointSettings
from dspark.controller.api import answers
from dspark.controller.api.app import ControlApi
from dspark.controller.api.service import SERVICE_NAME, ControlApiService, _is_local
from dspark.controller.api.tokens import Tokens, digest
from dspark.controller.loop import Controller
from dspark.rpc.channel import open_channel
from dspark.rpc.server import RpcServer
from dspark.wire.v1 import control_api_pb2 as pb
from dspark.wire.v1.control_api_pb2_grpc import (
    ControlApiServiceStub,
    add_ControlApiServiceServicer_to_server,
)
from tests.controller.served import a_controller

ROLES: tuple[Literal["viewer", "operator", "admin"], ...] = ("viewer", "operator", "admin")
TOKENS = tuple(ApiToken(name=f"a {role}", role=role, sha256=digest(role)) for role in ROLES)
TIMEOUT_S = 20.0


class Both:
    """The API by gRPC and by HTTP."""

    def __init__(
        self, controller: Controller, stub: ControlApiServiceStub, api: ControlApi
    ) -> None:
        self.controller = controller
        self.stub = stub
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(api.app()), base_url="http://127.0.0.1"
        )


@asynccontextmanager
async def served(tokens: tuple[ApiToken, ...] = ()) -> AsyncIterator[Both]:
    controller = a_controller(
        ControllerSettings(max_cohorts=1, activation_sessions=1, dwell_s=0.0, api_tokens=tokens)
    )
    api = ControlApi(controller, Tokens(tokens))
    server = RpcServer(EndpointSettings(), [SERVICE_NAME])
    service = ControlApiService(api, controller.events)
    server.add(lambda target: add_ControlApiServiceServicer_to_server(service, target))
    channel = open_channel(await server.start())
    both = Both(controller, ControlApiServiceStub(channel), api)
    try:
        yield both
    finally:
        await both.http.aclose()
        await channel.close()
        await server.stop(0.0)


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    async with served() as made:
        yield made


async def test_a_policy_is_set_seen_and_undone(both: Both) -> None:
    asked = pb.ApiSetPolicyRequest(
        pool="verifier", policy=pb.ApiPolicy(cap=2), reason="a test", ttl_s=30.0
    )
    as_ada = [("x-dspark-author", "ada")]
    changed = await both.stub.SetPolicy(asked, timeout=TIMEOUT_S, metadata=as_ada)
    assert (changed.change.policy.cap, changed.change.author, changed.change.ttl_s) == (
        2, "ada", 30.0,
    )  # fmt: skip
    assert [entry.number_value for entry in changed.tables[0].table[0].draft_tokens] == [2.0] * 4
    of = pb.ApiPoolRequest(pool="verifier")
    state = await both.stub.GetPolicy(of, timeout=TIMEOUT_S)
    assert (state.version, state.policy.cap, state.policy.HasField("floor")) == (1, 2, False)
    undo = pb.ApiRollBackPolicyRequest(pool="verifier", reason="enough", expected_version=1)
    assert (await both.stub.RollBackPolicy(undo, timeout=TIMEOUT_S)).change.undoes == 1
    history = await both.stub.ListChanges(pb.ApiChangesRequest(limit=1), timeout=TIMEOUT_S)
    assert [change.action for change in history.changes] == ["rollback"]
    cleared = pb.ApiClearPolicyRequest(pool="verifier", reason="tidy", dry_run=True)
    assert (await both.stub.ClearPolicy(cleared, timeout=TIMEOUT_S)).dry_run


async def test_both_say_the_same(both: Both) -> None:
    of = pb.ApiPoolRequest(pool="verifier")
    by_http = (await both.http.get("/v1/pools/verifier/budget")).json()["classes"][0]
    why = (await both.stub.GetBudget(of, timeout=TIMEOUT_S)).classes[0]
    assert (why.binding, why.epoch, why.device) == (
        by_http["binding"], by_http["epoch"], by_http["device"],
    )  # fmt: skip
    assert [list(point) for point in why.theta] == by_http["theta"]
    fleet = await both.stub.GetFleet(pb.ApiFleetRequest(), timeout=TIMEOUT_S)
    assert [pool.name for pool in fleet.pools] == ["drafter", "verifier"]
    pool = await both.stub.GetPool(of, timeout=TIMEOUT_S)
    assert pool == fleet.pools[1] or pool.replicas[0].name == fleet.pools[1].replicas[0].name
    curves = await both.stub.ListCurves(pb.ApiCurvesRequest(), timeout=TIMEOUT_S)
    assert curves.curves[0].version == "knee"
    supposed = pb.ApiWhatIfRequest(pool="verifier", replicas=3, sessions=6)
    outlooks = await both.stub.WhatIf(supposed, timeout=TIMEOUT_S)
    body = {"replicas": 3, "sessions": 6}
    same = (await both.http.post("/v1/pools/verifier/whatif", json=body)).json()
    assert outlooks.supposed.tokens_per_s == same["supposed"]["tokens_per_s"]


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"pool": "verifier", "reason": ""}, grpc.StatusCode.INVALID_ARGUMENT, "reason"),
        ({"pool": "gpus", "reason": "x"}, grpc.StatusCode.NOT_FOUND, "verifier pools: verifier"),
        ({"pool": "a/b", "reason": "x"}, grpc.StatusCode.NOT_FOUND, "see /docs"),
        ({"pool": "", "reason": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "pool is empty"),
        ({"pool": "drafter", "reason": "x"}, grpc.StatusCode.FAILED_PRECONDITION, "verifier pool"),
        (
            {"pool": "verifier", "reason": "x", "expected_version": 7},
            grpc.StatusCode.ABORTED, "at version 0, not 7",
        ),
        (
            {"pool": "verifier", "reason": "x", "policy": {"floor": 5, "cap": 4}},
            grpc.StatusCode.INVALID_ARGUMENT, "floor 5 is above cap 4",
        ),
    ],
)  # fmt: skip
async def test_refusals_keep_their_words(
    both: Both, asked: dict[str, object], code: grpc.StatusCode, said: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await both.stub.SetPolicy(pb.ApiSetPolicyRequest(**asked), timeout=TIMEOUT_S)  # type: ignore[arg-type]
    assert refused.value.code() is code, refused.value.details()
    assert said in (refused.value.details() or "")


async def test_roles_hold_as_by_http() -> None:
    async with served(TOKENS) as both:
        asked = pb.ApiSetPolicyRequest(pool="verifier", policy=pb.ApiPolicy(cap=2), reason="x")

        async def code(role: str | None, request: pb.ApiSetPolicyRequest = asked) -> object:
            given = [] if role is None else [("authorization", f"Bearer {role}")]
            try:
                done = await both.stub.SetPolicy(request, timeout=TIMEOUT_S, metadata=given)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return done.change.author

        assert await code(None) is grpc.StatusCode.UNAUTHENTICATED
        assert await code("nobody") is grpc.StatusCode.UNAUTHENTICATED
        assert await code("viewer") is grpc.StatusCode.PERMISSION_DENIED
        assert await code("operator") == "a operator"
        shadow = pb.ApiSetPolicyRequest(
            pool="verifier", policy=pb.ApiPolicy(shadow=True), reason="x"
        )
        assert await code("operator", shadow) is grpc.StatusCode.PERMISSION_DENIED
        assert await code("admin", shadow) == "a admin"
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in both.stub.WatchEvents(pb.ApiEventsRequest(), timeout=TIMEOUT_S):
                pass


async def test_events_are_streamed_from_where_somebody_was(both: Both) -> None:
    both.controller.events.publish("policy", "verifier", "first")
    newest = both.controller.events.newest
    call = both.stub.WatchEvents(pb.ApiEventsRequest(after=newest - 1), timeout=TIMEOUT_S)
    events = aiter(call)
    assert (await anext(events)).text == "first"
    later = asyncio.ensure_future(anext(events))
    both.controller.events.publish("budget", "verifier", "second")
    event = await later
    assert (event.kind, event.text) == ("budget", "second")
    call.cancel()


def test_without_tokens_only_this_machine_is_served() -> None:
    local = ("ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5", "ipv6:[::1]:5", "unix:/tmp/x")
    assert all(_is_local(peer) for peer in local)
    assert not any(_is_local(peer) for peer in ("ipv4:10.0.0.7:5", "ipv6:%5Bfe80::1%5D:5", ""))


def test_every_field_of_an_answer_has_its_twin() -> None:
    """``ignore_unknown_fields`` must not hide what the proto lacks."""
    for model, message in (
        (answers.FleetShape, pb.ApiFleet), (answers.BudgetShape, pb.ApiBudget),
        (answers.PolicyState, pb.ApiPolicyState), (answers.Changed, pb.ApiChanged),
        (answers.History, pb.ApiHistory), (answers.Outlooks, pb.ApiOutlooks),
        (answers.Curves, pb.ApiCurves), (answers.TokenList, pb.ApiTokens),
    ):  # fmt: skip
        compare(model, message.DESCRIPTOR)


def compare(model: type[BaseModel], message: Descriptor) -> None:
    known = {field.name: field for field in message.fields}
    assert sorted(model.model_fields) == sorted(known), f"{model}: see control_api.proto"
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            assert known[name].message_type is not None
            compare(inner, known[name].message_type)


def models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {list, Union, types.UnionType}:
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []
