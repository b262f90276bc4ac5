"""Real API servers and real clusters for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes import installing
from tests.kubernetes.api_server import ApiServerAlone, running_api_server
from tests.netns.runtime import agent_image


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


@pytest.fixture(scope="session")
def nodes_with_image(run_name: str) -> Iterator[RunningCluster]:
    """A cluster of two nodes that have meshd's image, for tests that install it: no network, no kube-proxy, no DNS."""
    archive = agent_image.archive()
    with site(f"{run_name}d", Wanted()) as made:
        cluster = made.clusters[0]
        for node in cluster.nodes:
            node.import_image(archive)
        yield cluster


@pytest.fixture
def installed(nodes_with_image: RunningCluster) -> RunningCluster:
    """The same with meshd on both nodes, installed by `meshctl kube install` unless an earlier test left it there."""
    if not installing.is_installed(nodes_with_image):
        installing.install(nodes_with_image)
    return nodes_with_image
