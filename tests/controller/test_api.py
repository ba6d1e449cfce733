import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dspark.config.controller import ApiToken, ControllerSettings
from dspark.controller.api.app import ControlApi
from dspark.controller.api.event_stream import as_text
from dspark.controller.api.tokens import Tokens, digest, new_token
from tests.controller.served import a_controller
from tests.fleet_examples import a_replica

POLICY = "/v1/pools/verifier/policy"


class Api:
    """A client of the API of a controller with a small fleet."""

    def __init__(self, tokens: tuple[ApiToken, ...] = ()) -> None:
        self.controller = a_controller(
            ControllerSettings(max_cohorts=1, activation_sessions=1, dwell_s=0.0, api_tokens=tokens)
        )
        app = ControlApi(self.controller, Tokens(tokens)).app()
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
        )

    async def ask(self, method: str, path: str, expect: int = 200, **more: Any) -> dict[str, Any]:
        answer = await self.client.request(method, path, **more)
        assert answer.status_code == expect, answer.text
        body: dict[str, Any] = answer.json()
        if expect >= 400:
            error = body["error"]
            assert error["status"] == expect
            assert error["message"]
            assert error["hint"], "every refusal says what to do"
        return body

    async def put(self, policy: dict[str, Any], expect: int = 200, **more: Any) -> dict[str, Any]:
        headers = more.pop("headers", {})
        params = more.pop("params", {})
        body = {"policy": policy, "reason": "a test", **more}
        return await self.ask("PUT", POLICY, expect, json=body, headers=headers, params=params)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    yield made
    await made.client.aclose()


async def test_a_cap_is_in_force_until_its_time_is_over_and_stays_in_the_history(api: Api) -> None:
    changed = await api.put({"cap": 2}, ttl_s=10.0, headers={"x-dspark-author": "ada"})
    assert changed["tables"][0]["table"][0]["draft_tokens"] == [2, 2, 2, 2]
    state = await api.ask("GET", POLICY)
    assert (state["policy"]["cap"], state["version"]) == (2, 1)
    assert state["layers"][0]["author"] == "ada"
    (change,) = (await api.ask("GET", "/v1/changes"))["changes"]
    assert (change["reason"], change["ttl_s"], change["action"]) == ("a test", 10.0, "set")
    until = state["layers"][0]["until_unix_s"]
    api.controller.tick(1.0, unix_s=until)
    history = (await api.ask("GET", "/v1/changes"))["changes"]
    assert [one["action"] for one in history] == ["expire", "set"]
    assert history[0]["policy"]["cap"] is None


async def test_a_lost_race_is_412_and_the_answer_has_the_etag_to_go_on_with(api: Api) -> None:
    read = await api.client.get(POLICY)
    assert read.headers["etag"] == '"0"'
    mine = {"if-match": read.headers["etag"]}
    await api.put({"cap": 1}, headers=mine)
    await api.put({"cap": 2}, 412, headers=mine)
    lost = await api.client.request("DELETE", POLICY, params={"reason": "x"}, headers=mine)
    assert (lost.status_code, lost.headers["etag"]) == (412, '"1"')
    await api.put({"cap": 2}, headers={"if-match": lost.headers["etag"]})
    await api.put({"cap": 3}, headers={"if-match": "*"})


async def test_a_dry_run_shows_the_budget_and_changes_nothing(api: Api) -> None:
    tried = await api.put({"mode": "pinned", "draft_tokens": 3}, params={"dry_run": "true"})
    assert tried["dry_run"] is True
    assert tried["tables"][0]["table"][0]["draft_tokens"] == [3]
    assert (await api.ask("GET", POLICY))["version"] == 0
    assert (await api.ask("GET", "/v1/changes"))["changes"] == []


async def test_one_call_rolls_back(api: Api) -> None:
    await api.put({"cap": 1})
    await api.put({"cap": 2})
    undone = await api.ask("POST", POLICY + "/rollback", json={"reason": "too low"})
    assert (undone["change"]["undoes"], undone["change"]["policy"]["cap"]) == (2, 1)
    await api.ask("POST", POLICY + "/rollback", 409, json={"reason": "x", "change": 77})


async def test_clearing_returns_to_the_plan(api: Api) -> None:
    await api.put({"mode": "off"})
    cleared = await api.ask("DELETE", POLICY, params={"reason": "all is well"})
    assert cleared["change"]["policy"]["mode"] == "auto"


async def test_the_budget_says_why(api: Api) -> None:
    (why,) = (await api.ask("GET", "/v1/pools/verifier/budget"))["classes"]
    assert (why["sessions"], why["committed_rounds"], why["draft_round_ms"]) == (4, 40, 1.0)
    assert why["binding"] == "theta: its highest point"
    best = max(why["theta"], key=lambda point: point[1])
    assert best[0] == why["entry"]
    assert why["off_tokens_per_s"] == pytest.approx(4 / 0.010)
    await api.put({"cap": 1})
    api.controller.tick(0.1, unix_s=0.0)
    (why,) = (await api.ask("GET", "/v1/pools/verifier/budget"))["classes"]
    assert (why["binding"], why["entry"], why["planned_entry"]) == ("policy: cap", 1, 4)


async def test_what_if_predicts_policies_replicas_and_load(api: Api) -> None:
    path = "/v1/pools/verifier/whatif"
    off = await api.ask("POST", path, json={"policy": {"mode": "off"}})
    assert off["supposed"]["tokens_per_s"] == pytest.approx(400.0)
    assert off["supposed"]["accepted_length"] == 1.0
    assert off["gain"] < 0
    two = await api.ask("POST", path, json={"replicas": 2})
    assert two["now"]["replicas"] == 1
    assert two["supposed"]["tokens_per_s_per_user"] > two["now"]["tokens_per_s_per_user"]
    fewer = (await api.ask("POST", path, json={"sessions": 1}))["supposed"]
    assert (fewer["sessions"], fewer["replicas"]) == (1, 1)
    # All three drafts: 1 + 0.9 + 0.8 + 0.7 tokens in 10 ms and 1 ms of drafting.
    assert fewer["tokens_per_s"] == pytest.approx(3.4 / 0.011)
    await api.ask("POST", path, 422, json={"sessions": 1_000_000})
    assert (await api.ask("GET", "/v1/changes"))["changes"] == [], "nothing was tried out"


async def test_a_number_of_replicas_is_asked_for_and_taken_back(api: Api) -> None:
    path = "/v1/pools/drafter/replicas"
    before = await api.ask("GET", path)
    assert (before["wanted"], before["ready"], before["asked"]) == (1, 1, None)
    body = {"replicas": 3, "reason": "a peak"}
    asked = await api.ask("PUT", path, json=body, headers={"x-dspark-author": "ada"})
    assert (asked["asked"], asked["author"], asked["reason"]) == (3, "ada", "a peak")
    api.controller.tick(0.0, unix_s=0.0)
    now = await api.ask("GET", path)
    assert (now["wanted"], now["why"]) == (3, "as asked")
    released = await api.ask("DELETE", path, params={"reason": "over"})
    assert (released["asked"], released["author"]) == (None, None)
    await api.ask("PUT", "/v1/pools/none/replicas", 404, json=body)
    await api.ask("GET", "/v1/pools/none/replicas", 404)
    await api.ask("PUT", path, 422, json={"replicas": -1, "reason": "x"})
    await api.ask("PUT", path, 422, json={"replicas": 1})
    await api.ask("DELETE", path, 422)


async def test_nothing_known_is_409_with_what_would_help(api: Api) -> None:
    api.controller.register(a_replica("other", pool="other"), 0.0)
    api.controller.tick(0.1, unix_s=0.0)
    body = await api.ask("POST", "/v1/pools/other/whatif", 409, json={})
    assert "0 committed rounds" in body["error"]["message"]


async def test_the_fleet_says_whether_a_pool_drafts(api: Api) -> None:
    async def told() -> tuple[object, object]:
        fleet = await api.ask("GET", "/v1/fleet")
        (pool,) = [one for one in fleet["pools"] if one["name"] == "verifier"]
        return pool["drafting"], pool["replicas"][0]["connected_drafters"]

    assert await told() == (True, 0)
    await api.put({"mode": "off"})
    api.controller.tick(0.0, unix_s=0.0)
    assert await told() == (False, 0)


async def test_the_fleet_shows_pools_and_replicas(api: Api) -> None:
    drafter, verifier = (await api.ask("GET", "/v1/fleet"))["pools"]
    assert (drafter["name"], drafter["policy"]) == ("drafter", None)
    assert verifier["survival"] == pytest.approx([0.9, 0.8, 0.7])
    assert verifier["replicas"][0]["curve_version"] == "knee"
    assert (await api.ask("GET", "/v1/pools/verifier"))["name"] == "verifier"
    curves = (await api.ask("GET", "/v1/curves"))["curves"]
    assert [(one["version"], one["problem"]) for one in curves] == [("knee", None)]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/pools/gpus", 404), ("/v1/pools/gpus/policy", 404), ("/v1/pools/gpus/budget", 404),
        ("/v1/pools/drafter/policy", 409), ("/v1/nowhere", 404), ("/v1/fleet?x=1", 422),
        ("/v1/changes?limit=0", 422), ("/v1/changes?limit=1&limit=2", 422),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_said(api: Api, path: str, status: int) -> None:
    await api.ask("GET", path, status)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mode": "pinned"}, "mode pinned needs it"),
        ({"floor": 3, "cap": 2}, "floor 3 is above cap 2"),
        ({"mode": "off", "cap": 2}, "cap bounds mode auto"),
        ({"cap": -1}, "body.policy.cap"),
        ({"cap": 1.5}, "body.policy.cap"),
        ({"cap": "3"}, "body.policy.cap"),
        ({"cpa": 3}, "body.policy.cpa"),
    ],
)
async def test_nonsense_is_422_and_names_the_field(
    api: Api, policy: dict[str, Any], said: str
) -> None:
    assert said in (await api.put(policy, 422))["error"]["message"]
    assert (await api.ask("GET", POLICY))["version"] == 0


@pytest.mark.parametrize(
    "more",
    [{"ttl_s": 0.5}, {"ttl_s": float("inf")}, {"reason": "  "}, {"reason": "x" * 501}],
    ids=str,
)
async def test_a_change_needs_a_reason_and_a_sensible_life(api: Api, more: dict[str, Any]) -> None:
    text = json.dumps({"policy": {}, "reason": "a test", **more})
    await api.ask("PUT", POLICY, 422, content=text, headers={"content-type": "application/json"})


async def test_requests_that_cannot_be_meant_are_422(api: Api) -> None:
    kind = {"content-type": "application/json"}
    await api.ask("PUT", POLICY, 422, content="{", headers=kind)
    await api.ask("PUT", POLICY, 422, content="{}", headers={"content-type": "text/plain"})
    await api.ask("PUT", POLICY, 422, content=b"x" * 70_000, headers=kind)
    await api.put({"cap": 1}, 422, headers={"if-match": "three"})
    wrong = await api.client.post(POLICY)
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE"}


async def test_without_tokens_only_this_machine_is_served(api: Api) -> None:
    await api.ask("GET", "/v1/fleet", 403, headers={"host": "evil.example"})
    await api.ask("GET", "/v1/fleet", headers={"host": "localhost:9901"})
    with pytest.raises(ValueError, match="set api_tokens"):
        ControllerSettings(api_host="0.0.0.0")


async def test_tokens_have_roles_and_name_the_author() -> None:
    secrets = {role: new_token() for role in ("viewer", "operator", "admin")}
    tokens = tuple(
        ApiToken(name=f"the {role}", role=role, sha256=digest(secret))  # type: ignore[arg-type]
        for role, secret in secrets.items()
    )
    assert not any(secret in repr(tokens) for secret in secrets.values())
    api = Api(tokens)

    def as_(role: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secrets[role]}", "x-dspark-author": "somebody else"}

    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eDp5"}):
        await api.ask("GET", "/v1/fleet", 401, headers=header)
    await api.ask("GET", "/v1/fleet", headers=as_("viewer"))
    await api.put({"cap": 1}, 403, headers=as_("viewer"))
    await api.put({"cap": 1}, headers=as_("operator"))
    (change,) = (await api.ask("GET", "/v1/changes", headers=as_("viewer")))["changes"]
    assert change["author"] == "the operator"
    await api.put({"shadow": True}, 403, headers=as_("operator"))
    await api.put({"shadow": True}, headers=as_("admin"))
    await api.ask("GET", "/v1/tokens", 403, headers=as_("operator"))
    listed = await api.ask("GET", "/v1/tokens", headers=as_("admin"))
    assert {"name": "the viewer", "role": "viewer"} in listed["tokens"]
    await api.client.aclose()


async def test_a_viewer_may_see_replicas_and_not_ask_for_them() -> None:
    token = new_token()
    api = Api((ApiToken(name="eve", role="viewer", sha256=digest(token)),))
    path, known = "/v1/pools/drafter/replicas", {"authorization": f"Bearer {token}"}
    await api.ask("GET", path, headers=known)
    await api.ask("PUT", path, 403, json={"replicas": 0, "reason": "x"}, headers=known)
    await api.ask("DELETE", path, 403, params={"reason": "x"}, headers=known)
    await api.client.aclose()


async def test_every_endpoint_is_documented_and_every_reference_resolves(api: Api) -> None:
    page = await api.ask("GET", "/openapi.json")
    schemas = page["components"]["schemas"]
    text = json.dumps(page)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas
    assert set(page["paths"][POLICY.replace("verifier", "{pool}")]) == {"get", "put", "delete"}
    html = (await api.client.get("/docs")).text
    assert all(path in html for path in page["paths"])
    assert "http://" not in html, "the page needs no network"
    assert "https://" not in html


async def test_events_follow_what_happens(api: Api) -> None:
    stopping = asyncio.Event()
    lines = as_text(api.controller.events, api.controller.events.newest, stopping)
    assert await anext(lines) == ": listening\n\n"
    await api.put({"cap": 1})
    said = await asyncio.wait_for(anext(lines), 5.0)
    assert said.splitlines()[1] == "event: policy"
    assert json.loads(said.splitlines()[2].removeprefix("data: "))["pool"] == "verifier"
    stopping.set()
    assert [line async for line in lines] == [": still here\n\n"]
