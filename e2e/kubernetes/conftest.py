"""Fixtures: one control plane for all stories, with the chart installed and an operator at work."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.kubernetes.cluster import HELM, Cluster
from e2e.kubernetes.control_plane import ControlPlane, binaries

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the way out, where there is nothing to run on."""
    lacking = None
    if binaries() is None:
        lacking = "no kube-apiserver and etcd here: set DSPARK_KUBE_BIN to a folder that has them"
    elif HELM is None:
        lacking = "no helm here: set DSPARK_HELM to one"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if lacking:
                item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("kubernetes")
    found = binaries()
    assert found is not None
    plane = ControlPlane(folder, found)
    try:
        plane.start()
        made = Cluster(plane, folder)
        made.start_operator()
        try:
            yield made
        finally:
            made.close()
            kept = os.environ.get("DSPARK_KUBE_LOGS")
            if kept:
                for log in folder.glob("*.log"):
                    shutil.copy(log, kept)
    finally:
        plane.stop()
