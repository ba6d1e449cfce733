"""``python -m dspark_operator.uninstall``: before the operator goes, see that no service needs it.

Run by Helm before it deletes a release.  The release's own instance is deleted and waited for;
services of others are left alone, and stop the uninstall.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from kubernetes import config
from kubernetes.client import ApiClient
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from dspark_operator import API_VERSION
from dspark_operator.document import items, text

_PAUSE_S = 2.0


class Step(Enum):
    """What to do next."""

    DELETE = "delete the release's own instance"
    WAIT = "wait for services that are being deleted"
    REFUSE = "leave services of others alone"
    DONE = "let the operator go"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A service that exists; ``ending``: it is being deleted."""

    namespace: str
    name: str
    ending: bool

    @property
    def path(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"


def next_step(left: Sequence[Left], own: str) -> tuple[Step, str]:
    """Return what to do next, and a sentence for people.

    Args:
        left: Services that the operator looks after.
        own: ``namespace/name`` of the release's own instance; "": it has none.
    """
    others = [service.path for service in left if service.path != own and not service.ending]
    if others:
        return Step.REFUSE, (
            f"{', '.join(others)} would be left without an operator: delete them first "
            "(kubectl delete dsparkservice NAME), or keep this release"
        )
    if any(service.path == own and not service.ending for service in left):
        return Step.DELETE, f"{own} is drained and deleted"
    if left:
        return Step.WAIT, f"{', '.join(service.path for service in left)} drain"
    return Step.DONE, "no service is left"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 once no service is left, or 1 where there are services of others."""
    parser = argparse.ArgumentParser(prog="python -m dspark_operator.uninstall")
    parser.add_argument("--namespace", action="append", default=[], help="none: all of them")
    parser.add_argument("--own", default="", help="NAMESPACE/NAME of the release's own instance")
    given = parser.parse_args(arguments)
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    client = DynamicClient(ApiClient())
    said = ""
    while True:
        step, message = next_step(_left(client, given.namespace), given.own)
        if message != said:
            print(message, flush=True)
            said = message
        if step is Step.DONE:
            return 0
        if step is Step.REFUSE:
            return 1
        if step is Step.DELETE:
            _delete(client, given.own)
        time.sleep(_PAUSE_S)


def _left(client: DynamicClient, namespaces: Sequence[str]) -> list[Left]:
    services = client.resources.get(api_version=API_VERSION, kind="DSparkService")
    places: Sequence[str | None] = namespaces or (None,)
    answers = [services.get(namespace=place, serialize=False) for place in places]
    return [
        Left(
            namespace=text(service, "metadata", "namespace"),
            name=text(service, "metadata", "name"),
            ending=bool(text(service, "metadata", "deletionTimestamp")),
        )
        for answer in answers
        for service in items(json.loads(answer.data), "items")
    ]


def _delete(client: DynamicClient, path: str) -> None:
    namespace, _, name = path.partition("/")
    services = client.resources.get(api_version=API_VERSION, kind="DSparkService")
    try:
        services.delete(name=name, namespace=namespace)
    except NotFoundError:
        return


if __name__ == "__main__":
    sys.exit(main())
