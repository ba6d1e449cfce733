from dataclasses import replace

from dspark.core.fleet import Fleet, Member, Role
from dspark.core.ids import Term
from dspark.core.refinement import StepCell
from dspark.wire.fleet import fleet_from_wire
from dspark.wire.snapshot import FleetEncoder
from dspark.wire.v1 import control_pb2
from tests.fleet_examples import a_curve, a_replica, a_report

CURVE = a_curve({1: 0.5, 2: 1.0})


def a_fleet(*members: Member) -> Fleet:
    return Fleet(term=Term(1), version=1, members=members)


def decoded(encoder: FleetEncoder, fleet: Fleet, *, brief: bool = False) -> Fleet:
    data = encoder.encode(fleet, brief=brief)
    return fleet_from_wire(control_pb2.Fleet.FromString(data))


def test_a_whole_snapshot_is_the_fleet_also_when_it_is_encoded_again() -> None:
    cells = (StepCell(sessions=1, batch_tokens=2, steps=3.0, ratio=0.5),)
    load = replace(a_report("v0", active=3, survivals=[(0.5, 0.25)]), step_cells=cells)
    verifier = Member(replica=a_replica("v0", curve=CURVE), load=load)
    encoder = FleetEncoder()
    assert decoded(encoder, a_fleet(verifier)) == a_fleet(verifier)
    busier = replace(verifier, load=replace(load, active_sessions=4))
    assert decoded(encoder, a_fleet(busier)) == a_fleet(busier)
    other = replace(verifier, replica=replace(verifier.replica, curve=a_curve({1: 0.5, 2: 2.0})))
    assert decoded(encoder, a_fleet(other)) == a_fleet(other)
    assert decoded(encoder, a_fleet()) == a_fleet()


def test_a_brief_one_has_only_the_curves_of_drafters_and_no_samples() -> None:
    load = a_report("v0", active=3, survivals=[(0.5, 0.25)])
    verifier = Member(replica=a_replica("v0", curve=CURVE), load=load)
    drafter = Member(replica=a_replica("d0", Role.DRAFTER, curve=CURVE))
    encoder = FleetEncoder()
    for _ in range(2):
        found = decoded(encoder, a_fleet(verifier, drafter), brief=True)
        assert found.members[0].replica == replace(verifier.replica, curve=None)
        assert found.members[0].load == replace(load, survivals=())
        assert found.members[1] == drafter
