"""The fleet: as a real gateway and a real control API tell it."""

import json

import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.api import view
from dspark.core.fleet import Fleet, Member, ReplicaState, Role
from dspark.core.ids import Term
from dspark.gateway.fleet import fleet_json
from dspark_operator.fleet import (
    Answer,
    FleetReport,
    UnitReport,
    believed,
    parse_routes,
    read_fleet,
)
from tests.controller.served import a_controller
from tests.fleet_examples import a_replica


def test_a_gateway_tells_what_it_can_route_to() -> None:
    replicas = (
        a_replica("v0"),
        a_replica("v1", state=ReplicaState.DRAINING),
        a_replica("d0", Role.DRAFTER),
    )
    fleet = Fleet(term=Term(1), version=1, members=tuple(Member(replica=r) for r in replicas))
    routes = parse_routes(fleet_json(fleet).decode())
    assert routes.unit("verifier") == UnitReport(ready=1)
    assert routes.unit("drafter") == UnitReport(ready=1)
    assert parse_routes(fleet_json(None).decode()) == FleetReport(units={})
    with pytest.raises(ValueError, match="not a fleet"):
        parse_routes("{}")


def test_the_controller_tells_what_is_so_now() -> None:
    controller = a_controller(ControllerSettings())
    told = view.fleet(controller, now_s=0.0, unix_s=0.0).model_dump_json()
    fleet = read_fleet(json.loads(told))
    verifier = fleet.unit("verifier")
    assert (verifier.ready, verifier.wanted, verifier.profiled) == (1, 1, 1)
    assert verifier.budget
    assert verifier.drafting is True
    assert fleet.unit("drafter").ready == 1
    assert fleet.unit("drafter").budget is None
    assert fleet.unit("nobody") == UnitReport()


def test_one_question_without_an_answer_is_no_news() -> None:
    known, lost = Answer(fleet=FleetReport(units={})), Answer(problem="timed out")
    assert believed(lost, known) is known
    assert believed(lost, lost) is lost
    assert believed(known, lost) is known
