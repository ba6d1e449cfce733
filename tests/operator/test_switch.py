"""Switch: TLS comes and goes everywhere at once."""

from typing import Any

from dspark_operator import names
from dspark_operator.manifests.render import render
from dspark_operator.rollout import StepKind
from dspark_operator.spec.parse import Service
from dspark_operator.switch import as_running, held_switch
from tests.operator.cases import CLUSTER, RELEASE, children, service, small
from tests.operator.test_certificates import GIVEN

RUNNING: dict[str, Any] = {"metadata": {"name": "llm"}}
ENDING: dict[str, Any] = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}


def _gateway(**spec: Any) -> dict[str, Any]:
    (found,) = [c for c in children(small(**spec))
                if (c["kind"], c["metadata"]["name"]) == ("Deployment", "llm-gateway")]  # fmt: skip
    return found


PLAIN, SECURE = _gateway(), _gateway(tls=GIVEN)


def test_it_is_held_back_while_engines_run_and_waits_for_the_last_one() -> None:
    for desired, live in ((SECURE, PLAIN), (PLAIN, SECURE)):
        held = held_switch(desired, live, RUNNING, 2)
        assert held is not None
        assert (held.kind, held.reason) == (StepKind.HOLD, "NewClusterNeeded")
        for ray_service, pods_left in ((ENDING, 2), (ENDING, 0), (None, 1)):
            waits = held_switch(desired, live, ray_service, pods_left)
            assert waits is not None
            assert waits.kind is StepKind.WAIT
        assert held_switch(desired, live, None, 0) is None


def test_meanwhile_the_service_is_asked_as_it_runs() -> None:
    def urls(of: Service) -> tuple[str, str]:
        return names.gateway_url(of), names.control_url(of)

    plain, secure = service(small()), service(small(tls=GIVEN))
    half = service(small(tls={**GIVEN, "plainHttp": ["gateway"]}))
    for wanted in (plain, secure, half):
        for runs in (plain, secure, half):
            live = {d["metadata"]["name"]: d for d in render(runs, RELEASE, CLUSTER)
                    if d["kind"] == "Deployment"}  # fmt: skip
            asked = as_running(wanted, live["llm-gateway"], live["llm-controller"])
            assert urls(asked) == urls(runs)
            known = asked.spec.tls and asked.spec.tls.authority_config_map_name
            assert known == (None if runs is plain else "authority")


def test_anything_else_is_no_switch() -> None:
    assert held_switch(SECURE, None, RUNNING, 2) is None
    assert held_switch(SECURE, SECURE, RUNNING, 2) is None
    other = _gateway(tls={**GIVEN, "secretName": "another"})
    assert held_switch(other, SECURE, RUNNING, 2) is None
