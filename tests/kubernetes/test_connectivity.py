"""The test of connectivity on real nodes: everything passes on a cluster that is well, and of one that is not, exactly what
is broken fails; and nothing is left of it, however it ends."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from scripts.kubernetes import images
from scripts.kubernetes.addons import install_dns
from scripts.kubernetes.cluster import RunningCluster, answer
from tests.kubernetes.installing import IMAGE, ON_NODES, command, install, is_installed, meshctl

pytestmark = [*ON_NODES, pytest.mark.needs("command:nft")]
OUTSIDE = ("--outside", "203.0.113.1", "--outside", "[2001:db8:ff::1]:443")
NAMESPACE = "meshd-connectivity-"


@pytest.fixture(scope="module")
def cluster(nodes_with_image: RunningCluster) -> Iterator[RunningCluster]:
    """Two nodes with meshd, and the cluster's DNS."""
    cluster = nodes_with_image
    if not is_installed(cluster):
        install(cluster)
    install_dns(cluster)
    yield cluster
    cluster.kubectl("delete", "deployment/coredns", "service/kube-dns", "-n", "kube-system")
    cluster.kubectl("wait", "--for=delete", "pod", "-l", "k8s-app=kube-dns", "-n", "kube-system")
    cluster.wait("no namespace of any test", lambda: not namespaces(cluster, ("Active", "Terminating")))


def namespaces(cluster: RunningCluster, phases: tuple[str, ...] = ("Active",)) -> list[str]:
    """Of tests of connectivity, those that nobody has deleted."""
    found = cluster.get("namespaces")["items"]
    return [
        each["metadata"]["name"]
        for each in found
        if NAMESPACE in each["metadata"]["name"] and each["status"]["phase"] in phases
    ]


def rows(said: str, word: str) -> set[str]:
    """Node and what was tried of the rows that begin with ``word``."""
    found = re.findall(rf"^{word} +(c1-n\d)  (.+?)  ", said, re.MULTILINE)
    return {f"{node}: {what}" for node, what in found}


def test_an_install_ends_with_pods_that_reach_what_they_have_to(cluster: RunningCluster) -> None:
    done = meshctl(cluster, "install", *IMAGE, "--without-kube-proxy", *OUTSIDE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "meshd: pods reach what they have to: 40 tries" in done.stdout
    for node, other in (("c1-n1", "c1-n2"), ("c1-n2", "c1-n1")):
        of_node = {each for each in rows(done.stdout, "ok") if each.startswith(f"{node}:")}
        assert of_node == {
            f"{node}: {what}"
            for what in (
                "a pod starts, its node reaches it",
                "pod on the same node",
                f"pod on {other}",
                "service, TCP",
                "service, UDP",
                f"service with its backend on {other}",
                "cluster DNS, IPv4",
                "cluster DNS, IPv6",
                "API server's service",
                "its own node",
                f"node {other}",
                "outside",
            )
        }
    assert namespaces(cluster) == []


@pytest.fixture
def broken(cluster: RunningCluster) -> Iterator[RunningCluster]:
    """No DNS; between pods of the two nodes no IPv6, and of IPv4 only small packets, in one direction."""
    router = ("nsenter", f"--net={cluster.place.site.router}", "--", "nft")
    (v4_one, v6_one), (v4_two, v6_two) = (cluster.registered()[node.name] for node in cluster.nodes)
    rules = f"""
        table bridge broken {{
            chain forward {{
                type filter hook forward priority 0
                ip6 saddr {v6_one} ip6 daddr {v6_two} drop
                ip saddr {v4_one} ip daddr {v4_two} meta length > 1000 drop
            }}
        }}
    """
    answer([*router, "-f", "-"], rules, check=True)
    cluster.kubectl("scale", "deployment/coredns", "-n", "kube-system", "--replicas=0")
    cluster.kubectl("wait", "--for=delete", "pod", "-l", "k8s-app=kube-dns", "-n", "kube-system")
    yield cluster
    answer([*router, "delete", "table", "bridge", "broken"], check=True)
    cluster.kubectl("scale", "deployment/coredns", "-n", "kube-system", "--replicas=1")


def test_what_is_broken_fails_and_nothing_else(broken: RunningCluster) -> None:
    done = meshctl(broken, "check", "--connectivity", *OUTSIDE)
    assert done.returncode == 1, done.stdout + done.stderr
    across = {
        f"{node}: {what}"
        for node, other in (("c1-n1", "c1-n2"), ("c1-n2", "c1-n1"))
        for what in (f"pod on {other}", f"service with its backend on {other}")
    }
    names = {f"{node}: cluster DNS, IPv{family}" for node in ("c1-n1", "c1-n2") for family in (4, 6)}
    assert rows(done.stdout, "failed") == across | names
    assert "meshd: 12 of 40 tries failed" in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed") and "DNS" not in line]
    said = sorted(("[fd00" in line, line.rpartition("  ")[2]) for line in failed)
    large = "small packets pass and large ones do not: the MTU is wrong on the way"
    assert said == [(False, large)] * 4 + [(True, "no answer within 3 s")] * 4
    assert done.stdout.count('docs/troubleshooting.md, "Small packets pass, large ones vanish"') == 4
    assert done.stdout.count('docs/troubleshooting.md, "Names are not found"') == 4
    assert namespaces(broken) == []


@pytest.mark.parametrize(
    ("sign", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 1, marks=pytest.mark.long)]
)
def test_a_test_that_is_interrupted_leaves_nothing(
    cluster: RunningCluster, sign: signal.Signals, status: int
) -> None:
    with subprocess.Popen(
        command(cluster, "check", "--connectivity"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        cluster.wait(
            "its pods",
            lambda: any(cluster.get("pods", "-n", each)["items"] for each in namespaces(cluster)),
        )
        process.send_signal(sign)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert namespaces(cluster) == []


def test_a_pod_that_cannot_start_is_named_and_why(cluster: RunningCluster) -> None:
    """Of an image without Python; and the other node is not to be tested."""
    done = meshctl(cluster, "check", "--connectivity", "--node", "c1-n1", "--image", images.BUSYBOX)
    assert done.returncode == 1, done.stdout + done.stderr
    assert rows(done.stdout, "failed") == {"c1-n1: a pod starts, its node reaches it"}
    assert "python3" in done.stdout
    assert namespaces(cluster) == []
