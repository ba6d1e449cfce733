"""Endpoints: one table of everything that the control API serves; routes and page come from it."""

from dataclasses import dataclass

from pydantic import BaseModel

from dspark.controller.api import answers
from dspark.controller.api.asks import (
    ClearQuery,
    DryRun,
    HistoryQuery,
    NoQuery,
    ReleaseQuery,
    RollBack,
    SetPolicy,
    SetReplicas,
    TrendQuery,
    TryOut,
    WhatIf,
)
from dspark.controller.api.tokens import ApiRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path.

    Attributes:
        name: Of the method of ``app.ControlApi`` that serves it.
        method: HTTP method.
        path: With {pool} for a pool's name.
        summary: One line for people.
        answer: Body of the answer; None: server-sent events.
        role: The lowest that may.
        query: Parameters.
        body: What has to be sent, or None.
        conditional: Whether ``if-match`` is understood.
        refusals: Statuses besides 401, 403, 409 of a standby, and 422.
        on_standby: Whether a controller that does not lead answers it too, from the store.
    """

    name: str
    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None
    role: ApiRole = ApiRole.VIEWER
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    conditional: bool = False
    refusals: tuple[int, ...] = ()
    on_standby: bool = False


POOL = "/v1/pools/{pool}"

ENDPOINTS = (
    Endpoint(
        name="fleet", method="GET", path="/v1/fleet",
        summary="Every pool with its replicas, load and conditions", answer=answers.FleetShape,
    ),
    Endpoint(
        name="pool", method="GET", path=POOL, summary="One pool", answer=answers.PoolShape,
        refusals=(404,),
    ),
    Endpoint(
        name="budget", method="GET", path=POOL + "/budget",
        summary="The budget now, and why: inputs, Theta, and the constraint that binds",
        answer=answers.BudgetShape, refusals=(404,),
    ),
    Endpoint(
        name="policy", method="GET", path=POOL + "/policy",
        summary="The policy in force; its etag goes into if-match of a change",
        answer=answers.PolicyState, refusals=(404,), on_standby=True,
    ),
    Endpoint(
        name="set_policy", method="PUT", path=POOL + "/policy",
        summary="Put a policy in force, for good or for ttl_s", answer=answers.Changed,
        role=ApiRole.OPERATOR, query=DryRun, body=SetPolicy, conditional=True,
        refusals=(404, 412, 503),
    ),
    Endpoint(
        name="clear_policy", method="DELETE", path=POOL + "/policy",
        summary="Return to the default policy: auto, without bounds", answer=answers.Changed,
        role=ApiRole.OPERATOR, query=ClearQuery, conditional=True, refusals=(404, 412, 503),
    ),
    Endpoint(
        name="roll_back", method="POST", path=POOL + "/policy/rollback",
        summary="Return to the policy before a change: the last one, or the one named",
        answer=answers.Changed, role=ApiRole.OPERATOR, query=DryRun, body=RollBack,
        conditional=True, refusals=(404, 412, 503),
    ),
    Endpoint(
        name="replicas", method="GET", path=POOL + "/replicas",
        summary="How many replicas the pool is to have, and who asked for them",
        answer=answers.ReplicasState, refusals=(404,),
    ),
    Endpoint(
        name="set_replicas", method="PUT", path=POOL + "/replicas",
        summary="Ask for a number of replicas, until somebody asks for another",
        answer=answers.ReplicasState, role=ApiRole.OPERATOR, body=SetReplicas,
        refusals=(404, 503),
    ),
    Endpoint(
        name="release_replicas", method="DELETE", path=POOL + "/replicas",
        summary="Take back what was asked: the load decides again, or the configured number",
        answer=answers.ReplicasState, role=ApiRole.OPERATOR, query=ReleaseQuery,
        refusals=(404, 503),
    ),
    Endpoint(
        name="what_if", method="POST", path=POOL + "/whatif",
        summary="Predict another policy, replica count or load from curves and statistics",
        answer=answers.Outlooks, body=WhatIf, refusals=(404,),
    ),
    Endpoint(
        name="curves", method="GET", path="/v1/curves",
        summary="What a step costs each kind of replica", answer=answers.Curves,
    ),
    Endpoint(
        name="history", method="GET", path="/v1/changes",
        summary="Every change of a policy, newest first", answer=answers.History,
        query=HistoryQuery, on_standby=True,
    ),
    Endpoint(
        name="samples", method="GET", path="/v1/trend",
        summary="Budgets, accepted length, load and step time over the last minutes",
        answer=answers.TrendShape, query=TrendQuery,
    ),
    Endpoint(
        name="try_out", method="POST", path="/v1/try",
        summary="Complete a short prompt through the gateway, with a trace of its drafts, as "
        "server-sent events",
        answer=None, body=TryOut, refusals=(429, 503),
    ),
    Endpoint(
        name="events", method="GET", path="/v1/events",
        summary="What happens, as server-sent events; last-event-id resumes", answer=None,
        refusals=(429,),
    ),
    Endpoint(
        name="tokens", method="GET", path="/v1/tokens", summary="Who may use this API",
        answer=answers.TokenList, role=ApiRole.ADMIN, on_standby=True,
    ),
)  # fmt: skip
