"""meshd comes to a cluster whose pods have another network: they keep it and their addresses, and status names them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.kubernetes import images
from scripts.kubernetes.addons import install_bridge
from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.mesh_agents import MeshAgents

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(400),
]


@pytest.fixture
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """One node whose pods have Debian's network."""
    with site(f"{run_name}o", Wanted(clusters=(1,))) as made:
        install_bridge(made.clusters[0])
        yield made.clusters[0]


def run_pod(cluster: RunningCluster, name: str) -> list[str]:
    """The addresses of a new pod that is ready."""
    command = ("--command", "--", "httpd", "-f", "-p", "8080", "-h", "/etc")
    image = (f"--image={images.BUSYBOX}", "--image-pull-policy=Never", "--grace-period=0")
    cluster.kubectl("run", name, *image, *command)
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=100s")
    return [each["ip"] for each in cluster.get("pod", name)["status"]["podIPs"]]


def reaches(cluster: RunningCluster, name: str, address: str) -> bool:
    said = cluster.kubectl("exec", name, "--", "ping", "-c", "1", "-W", "5", address)
    return "1 packets received" in said


def test_pods_of_another_plugin_keep_their_network_until_they_are_recreated(cluster: RunningCluster) -> None:
    old = run_pod(cluster, "old")
    agents = MeshAgents(cluster)
    (node,) = cluster.nodes
    agents.start(node)
    agents.wait_ready()
    cluster.wait("the list", lambda: others(agents, cluster) == "default/old")
    new = run_pod(cluster, "new")
    assert set(old).isdisjoint(new)
    assert node.run("ls", "/etc/cni/net.d").split()[0] == "00-meshd.conflist"
    assert reaches(cluster, "old", "203.0.113.1")
    assert reaches(cluster, "new", "203.0.113.1")
    cluster.kubectl("delete", "pod", "old", "--now")
    run_pod(cluster, "old")
    cluster.wait("an empty list", lambda: others(agents, cluster) == "")


def others(agents: MeshAgents, cluster: RunningCluster) -> str:
    """The pods that status names."""
    warnings = agents.status(cluster.nodes[0])["warnings"]
    found = [each for each in warnings if "of another network plugin" in each]
    return found[0].rpartition(": ")[2] if found else ""
