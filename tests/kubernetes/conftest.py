"""Real API servers and real clusters for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.api_server import ApiServerAlone, running_api_server


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerAlone]:
    """An API server without nodes, for the tests of one file; whoever stops it starts it again."""
    with running_api_server(tmp_path_factory.mktemp("api-server")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """A cluster of two nodes that wait for a network: no CNI plugin, no kube-proxy, no DNS. One for all tests of a run."""
    with site(f"{run_name}k", Wanted()) as made:
        yield made.clusters[0]
