"""Everything that should exist for a service."""

from dspark_operator.document import Object
from dspark_operator.manifests.access import accounts, disruption_budgets, network_policies
from dspark_operator.manifests.certificates import certificates
from dspark_operator.manifests.front import controller, gateway
from dspark_operator.manifests.monitors import monitors
from dspark_operator.manifests.objects import Cluster, Release
from dspark_operator.manifests.pair_check import pair_check
from dspark_operator.manifests.ray import ray_service
from dspark_operator.manifests.ways_in import ways_in
from dspark_operator.spec.parse import Service

OPTIONAL = {
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "ServiceMonitor",
    "PodMonitor",
    "PrometheusRule",
    "HTTPRoute",
    "Certificate",
}
"""Kinds that are left out where the cluster does not know them; it is told which."""


def render(service: Service, release: Release, cluster: Cluster) -> list[Object]:
    """Return all children, in an order in which they can be created; the RayService is last.

    Raises:
        SpecError: The spec cannot be carried out; the message names the field.
    """
    return [
        *accounts(service),
        *certificates(service),
        *network_policies(service, release, cluster),
        *pair_check(service, release),
        *controller(service, release),
        *gateway(service, release),
        *ways_in(service),
        *disruption_budgets(service, cluster),
        *monitors(service),
        ray_service(service, release),
    ]


def applicable(children: list[Object], cluster: Cluster) -> tuple[list[Object], list[str]]:
    """Split children into those that the cluster can take and the names of missing kinds."""
    taken, missing = [], []
    for child in children:
        if child["kind"] not in OPTIONAL or cluster.serves(child):
            taken.append(child)
        else:
            missing.append(f"{child['apiVersion']}/{child['kind']}")
    return taken, sorted(set(missing))
