from dataclasses import replace
from typing import Any

import pytest

from dspark.core.fleet import Role
from dspark.core.pairing import FIELDS_BY_ROLE, mismatch, reference
from tests.fleet_examples import COMPATIBILITY, a_replica


def test_the_first_verifier_is_the_reference_even_after_a_prefill_replica() -> None:
    drafter, prefill = a_replica("d0", Role.DRAFTER), a_replica("p0", Role.PREFILL)
    first, second = a_replica("v0"), a_replica("v1")
    assert reference([drafter]) is None
    assert reference([drafter, prefill]) is prefill
    assert reference([drafter, prefill, first, second]) is first


@pytest.mark.parametrize(
    ("role", "change", "refused"),
    [
        (Role.DRAFTER, {"projection_id": "other"}, True),
        (Role.DRAFTER, {"block_size": 5}, True),
        (Role.DRAFTER, {"page_tokens": 8}, False),
        (Role.PREFILL, {"page_tokens": 8}, True),
        (Role.VERIFIER, {"target_digest": "other"}, True),
        (Role.GATEWAY, {"target_digest": "other"}, False),
        (Role.GATEWAY, {"tokenizer_digest": "other"}, True),
        (Role.CONTROLLER, {"model": "other"}, False),
        (Role.CONTROLLER, {"protocol_version": 2}, True),
    ],
)
def test_a_role_is_held_to_what_it_depends_on(
    role: Role, change: dict[str, Any], refused: bool
) -> None:
    problem = mismatch(role, COMPATIBILITY, replace(COMPATIBILITY, **change))
    assert (problem is not None) == refused
    if problem is not None:
        assert problem.startswith(next(iter(change)))


def test_a_handshake_may_ask_for_some_fields_only() -> None:
    other = replace(COMPATIBILITY, page_tokens=99, kv_dtype="other")
    assert COMPATIBILITY.mismatch(other) is not None
    assert COMPATIBILITY.mismatch(other, FIELDS_BY_ROLE[Role.DRAFTER]) is None
    stranger = replace(other, projection_id="other")
    problem = COMPATIBILITY.mismatch(stranger, FIELDS_BY_ROLE[Role.DRAFTER])
    assert problem is not None
    assert problem.startswith("projection_id")
