"""Snapshots: the fleet as bytes, converted once however many watch.

A replica says the same about itself in every snapshot, and its curve is most of the work: its
message is kept while it does.
"""

from dataclasses import replace

from dspark.core.fleet import Fleet, LoadReport, Replica, Role
from dspark.core.ids import ReplicaName
from dspark.wire.fleet import fleet_to_wire, load_report_to_wire, replica_to_wire
from dspark.wire.v1 import control_pb2


class FleetEncoder:
    """Encodes the newest fleet, whole or brief (see ``WatchFleetRequest``)."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None
        self._encoded: dict[bool, bytes] = {}
        self._whole: dict[ReplicaName, tuple[Replica, control_pb2.Replica]] = {}
        self._brief: dict[ReplicaName, tuple[Replica, control_pb2.Replica]] = {}

    def encode(self, fleet: Fleet, *, brief: bool = False) -> bytes:
        """Return the message ``Fleet``, serialised."""
        if self._fleet is not fleet:
            self._fleet, self._encoded = fleet, {}
            present = {member.replica.name for member in fleet.members}
            for kept in (self._whole, self._brief):
                for name in kept.keys() - present:
                    del kept[name]
        if brief not in self._encoded:
            message = (
                fleet_to_wire(fleet, replica=self._brief_replica, load=_brief_load)
                if brief
                else fleet_to_wire(fleet, replica=self._whole_replica)
            )
            self._encoded[brief] = message.SerializeToString()
        return self._encoded[brief]

    def _whole_replica(self, replica: Replica) -> control_pb2.Replica:
        return _kept(self._whole, replica, replica)

    def _brief_replica(self, replica: Replica) -> control_pb2.Replica:
        known = self._brief.get(replica.name)
        if known is not None and known[0] is replica:
            return known[1]
        said = replica if replica.role is Role.DRAFTER else replace(replica, curve=None)
        return _kept(self._brief, replica, said)


def _kept(
    kept: dict[ReplicaName, tuple[Replica, control_pb2.Replica]], replica: Replica, said: Replica
) -> control_pb2.Replica:
    known = kept.get(replica.name)
    if known is None or known[0] is not replica:
        known = kept[replica.name] = (replica, replica_to_wire(said))
    return known[1]


def _brief_load(load: LoadReport) -> control_pb2.LoadReport:
    message = load_report_to_wire(load)
    message.ClearField("survivals")
    message.ClearField("step_cells")
    return message
