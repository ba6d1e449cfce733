"""``dspark k8s``: what the operator would apply, and what a cluster lacks.

The operator's package and the Kubernetes client come with the extra ``operator``.
"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dspark_operator.spec.parse import Service

app = typer.Typer(help="Kubernetes: render a service offline, check a cluster.")

_MARKS = {"ok": "ok      ", "warning": "warning ", "missing": "MISSING "}


@app.command()
def render(
    files: Annotated[list[str], typer.Argument(help="YAML with DSparkServices; - is stdin.")],
    engine_image: Annotated[str, typer.Option(help="For services that name none.")] = (
        "dspark-engine:0.1.0"
    ),
    server_image: Annotated[str, typer.Option(help="For services that name none.")] = (
        "dspark-server:0.1.0"
    ),
    minor: Annotated[
        int, typer.Option("--kubernetes", min=20, metavar="MINOR", help="As 32 of 1.32.")
    ] = 32,
) -> None:
    """Print what the operator would apply, without a cluster; exit 1 where a spec is wrong."""
    from dspark_operator.manifests.objects import Cluster, Release
    from dspark_operator.offline import children_of, services_in

    # The digest of the operator's token is the only thing that depends on the key.
    release = Release(
        engine_image=engine_image, server_image=server_image, control_key="rendered offline"
    )
    services = list(services_in(files))
    if not services:
        raise ValueError(f"no DSparkService in {', '.join(files)}")
    for service in services:
        print(children_of(service, release, Cluster(minor=minor)), end="")


@app.command()
def check(
    files: Annotated[
        list[str] | None, typer.Argument(help="YAML with DSparkServices; - is stdin.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="For files without.")] = (
        "default"
    ),
) -> None:
    """Say what a cluster lacks: KubeRay, GPUs, storage; exit 1 where something needed is missing.

    With a file also what its services ask for: kinds, volumes, nodes of each group.
    """
    from dspark_operator.offline import services_in

    asked: list[Service | None] = [*services_in(files or [], namespace=namespace)]
    if files and not asked:
        raise ValueError(f"no DSparkService in {', '.join(files)}")
    missing = [_report(service, context, namespace) for service in asked or [None]]
    if any(missing):
        raise ValueError("the cluster lacks something that is needed")


def _report(service: "Service | None", context: str | None, namespace: str) -> bool:
    """Print the findings of one service, or of the cluster alone; say whether one is missing."""
    try:
        from kubernetes import config
    except ImportError:
        raise ValueError(
            "the Kubernetes client is not installed: pip install 'dspark-serve[operator]'"
        ) from None
    from kubernetes.client import ApiException
    from kubernetes.dynamic import DynamicClient
    from urllib3.exceptions import HTTPError

    from dspark_operator.prerequisites import findings
    from dspark_operator.survey import survey

    try:
        client = DynamicClient(config.new_client_from_config(context=context))
        found = findings(survey(client, service.namespace if service else namespace), service)
    except config.ConfigException as error:
        raise ValueError(f"no cluster to ask: {error}; give --context or KUBECONFIG") from error
    except (ApiException, HTTPError) as error:
        raise ConnectionError(f"the cluster cannot be asked: {error}") from error
    if service is not None:
        print(f"{service.namespace}/{service.name}")
    for finding in found:
        print(_MARKS[finding.level] + finding.message)
    return any(finding.level == "missing" for finding in found)
