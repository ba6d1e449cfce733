"""Counts: how many replicas are wanted, ready, and of the newest revision."""

from dspark_operator import names
from dspark_operator.document import Json, Object, number, part, text
from dspark_operator.observed import Observed
from dspark_operator.rollout import StepKind
from dspark_operator.settings import application_name
from dspark_operator.spec.parse import Service
from dspark_operator.spec.pools import Pool


def ready_verifiers(service: Service, seen: Observed, before: Object) -> int:
    """Return what ``kubectl scale`` and autoscalers compare with ``spec.replicas``."""
    known = seen.fleet or seen.routes
    if known is None:
        # Not 0: an autoscaler would take it for the truth.
        return number(before, "replicas") or 0
    return sum(known.unit(unit).ready for unit in service.spec.verifier_units())


def verifier_pods(service: Service) -> str:
    """Return the labels by which an autoscaler finds the verifiers' pods."""
    chosen = {**names.selector(service, names.ENGINE), names.ROLE_LABEL: "verifier"}
    return ",".join(f"{key}={value}" for key, value in sorted(chosen.items()))


def pool_status(service: Service, pool: Pool, seen: Observed) -> Object:
    """Return how many replicas of a pool are wanted, ready, and of the newest revision."""
    known = seen.fleet or seen.routes
    replicas = ready = updated = 0
    for group in pool.groups:
        unit = pool.unit(group)
        report = known.unit(unit) if known is not None else None
        wanted = report.wanted if report is not None else None
        replicas += group.replicas.start if wanted is None else wanted
        ready += report.ready if report is not None else 0
        if report is not None and _is_current(unit, seen):
            updated += report.ready
    made: dict[str, Json] = {
        "name": pool.name,
        "role": pool.role,
        "replicas": replicas,
        "readyReplicas": ready,
        "updatedReplicas": updated,
    }
    return made


def _is_current(unit: str, seen: Observed) -> bool:
    """Say whether what runs is of the newest revision: applied, taken up, and settled."""
    live = seen.ray_service
    if seen.step.kind is not StepKind.NOTHING or live is None:
        return False
    if number(live, "status", "observedGeneration") != number(live, "metadata", "generation"):
        return False
    applications = part(live, "status", "activeServiceStatus", "applicationStatuses")
    return text(applications.get(application_name(unit)), "status") == "RUNNING"
