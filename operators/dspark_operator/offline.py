"""``python -m dspark_operator.offline FILE...``: what the operator would apply, without a cluster.

Reads DSparkServices from YAML files (``-`` is standard input) and prints their children.  The
status is 1 where a spec has a mistake, which is told by its field.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from dspark_operator.document import Object, text
from dspark_operator.manifests.objects import Cluster, Release
from dspark_operator.manifests.render import render
from dspark_operator.spec.parse import SpecError, parse_service

_NO_UID = "00000000-0000-0000-0000-000000000000"


def children_of(manifest: Object, release: Release, cluster: Cluster) -> list[Object]:
    """Return what the operator would apply for one DSparkService.

    Raises:
        SpecError: The spec cannot be carried out.
    """
    metadata = manifest.get("metadata")
    given: Object = metadata if isinstance(metadata, dict) else {}
    known: Object = {"namespace": "default", "uid": _NO_UID, "generation": 1, **given}
    return render(parse_service({**manifest, "metadata": known}), release, cluster)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the children of every service in the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dspark_operator.offline", description=__doc__)
    parser.add_argument("files", nargs="+", help="YAML; - is standard input")
    parser.add_argument("--engine-image", default="dspark-engine:0.1.0")
    parser.add_argument("--server-image", default="dspark-server:0.1.0")
    parser.add_argument("--kubernetes", type=int, default=32, metavar="MINOR", help="as 32 of 1.32")
    given = parser.parse_args(arguments)
    release = Release(engine_image=given.engine_image, server_image=given.server_image)
    cluster = Cluster(minor=given.kubernetes)
    for file, manifest in _services(given.files):
        try:
            children = children_of(manifest, release, cluster)
        except SpecError as error:
            name = text(manifest, "metadata", "name")
            print(f"{file}: {name or 'a DSparkService'}: {error}", file=sys.stderr)
            return 1
        yaml.safe_dump_all(children, sys.stdout, sort_keys=False, explicit_start=True, width=100)
    return 0


def _services(files: Sequence[str]) -> Iterator[tuple[str, Object]]:
    for file in files:
        written = sys.stdin.read() if file == "-" else Path(file).read_text()
        for document in yaml.safe_load_all(written):
            if isinstance(document, dict) and document.get("kind") == "DSparkService":
                yield file, document


if __name__ == "__main__":
    sys.exit(main())
