"""Services in files: read, and rendered into what the operator would apply, without a cluster."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from dspark_operator.document import Object, text
from dspark_operator.manifests.objects import Cluster, Release
from dspark_operator.manifests.render import render
from dspark_operator.spec.parse import Service, SpecError, parse_service

_NO_UID = "00000000-0000-0000-0000-000000000000"


def services_in(files: Sequence[str], *, namespace: str = "default") -> Iterator[Service]:
    """Read the DSparkServices of YAML files; other kinds are passed over.

    Args:
        files: Paths; ``-`` is standard input.
        namespace: Of those that name none.

    Raises:
        ValueError: A file is no YAML, or a spec has a mistake, which is told by its field.
        OSError: A file cannot be read.
    """
    for file in files:
        try:
            documents = list(
                yaml.safe_load_all(sys.stdin.read() if file == "-" else Path(file).read_text())
            )
        except yaml.YAMLError as error:
            raise ValueError(f"{file}: {error}") from None
        for document in documents:
            if isinstance(document, dict) and document.get("kind") == "DSparkService":
                yield _read(file, document, namespace)


def children_of(service: Service, release: Release, cluster: Cluster) -> str:
    """Return as YAML what the operator would apply for a service.

    Raises:
        ValueError: The spec cannot be carried out.
    """
    children = render(service, release, cluster)
    written: str = yaml.safe_dump_all(children, sort_keys=False, explicit_start=True, width=100)
    return written


def _read(file: str, manifest: Object, namespace: str) -> Service:
    metadata = manifest.get("metadata")
    given: Object = metadata if isinstance(metadata, dict) else {}
    known: Object = {"namespace": namespace, "uid": _NO_UID, "generation": 1, **given}
    try:
        return parse_service({**manifest, "metadata": known})
    except SpecError as error:
        raise ValueError(f"{file}: {text(given, 'name') or 'a DSparkService'}: {error}") from None
