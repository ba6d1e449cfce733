"""Fuzzing the control API by its own documentation: no 5xx, no accepted nonsense.

schemathesis makes requests that fit the document and requests that do not.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from dspark.config.controller import ControllerSettings
from dspark.controller.api.endpoints import ENDPOINTS
from dspark.controller.api.openapi import document
from tests.controller.served import a_controller, served_api

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis to fuzz")
pytestmark = pytest.mark.long

OPERATIONS = [endpoint.name for endpoint in ENDPOINTS if endpoint.answer is not None]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served_api(a_controller(ControllerSettings())) as served:
        yield served


@pytest.mark.parametrize("pool", ["verifier", "drafter", None])
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_answers_are_as_documented(url: str, name: str, mode: str, pool: str | None) -> None:
    fuzz(url, name, mode, pool)


def test_a_controller_that_fails_is_found_out() -> None:
    broken = a_controller(ControllerSettings())
    broken.plan = None  # type: ignore[assignment]
    with served_api(broken) as url, pytest.raises(BaseExceptionGroup) as caught:
        fuzz(url, "what_if", "positive", "verifier")
    assert any("erver" in type(error).__name__ for error in caught.value.exceptions)


def fuzz(url: str, name: str, mode: str, pool: str | None) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_dict(document())
    found = [result.ok() for result in schema.get_all_operations()]
    (operation,) = [one for one in found if one.definition.raw["operationId"] == name]
    more = {}
    if pool is not None:
        if "{pool}" not in operation.path:
            pytest.skip("it has no pool")
        more["path_parameters"] = {"pool": pool}
    wanted = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    if mode == "negative":
        wanted.append(checks.negative_data_rejection)
        if not (operation.body or operation.query):
            pytest.skip("there is nothing to get wrong")

    @settings(
        max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=GenerationMode(mode), **more))
    def ask(case: "schemathesis.Case") -> None:
        case.validate_response(case.call(base_url=url), checks=wanted)

    ask()
