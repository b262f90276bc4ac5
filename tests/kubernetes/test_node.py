"""A node is what an agent expects of a machine of its own, when it comes as a DaemonSet does: through paths of the host."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from meshd.kernel import cgroup
from scripts.kubernetes import images
from scripts.kubernetes.addons import install_bridge, install_dns
from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import RunningSite, Wanted, site

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "veth", "ipv6"),
    pytest.mark.needs("command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(400),
    # Of the tests' own machinery, which whatever runs on it shows as well.
    pytest.mark.long,
]
PATHS = {"bpf": "/sys/fs/bpf", "cgroup": "/sys/fs/cgroup", "netns": "/run/netns", "cni": "/etc/cni/net.d"}
LABELS = {"app": "agent"}


@pytest.fixture(scope="module")
def two_clusters(run_name: str) -> Iterator[RunningSite]:
    """Two clusters of a node each, with kube-proxies of the older kind; pods of the first have Debian's network."""
    with site(f"{run_name}t", Wanted([1, 1], proxy="iptables")) as made:
        install_bridge(made.clusters[0])
        yield made


@pytest.fixture(scope="module")
def first(two_clusters: RunningSite) -> RunningCluster:
    return two_clusters.clusters[0]


@pytest.fixture(scope="module")
def agent(first: RunningCluster) -> str:
    """The name of a pod as an agent's: on the host's network, few capabilities, the host's directories."""
    container = {
        "name": "agent",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sleep", "100000"],
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]},
        },
        "volumeMounts": [
            {"name": name, "mountPath": path, "mountPropagation": "HostToContainer"}
            for name, path in PATHS.items()
        ],
    }
    pod = {
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in PATHS.items()],
    }
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }
    first.apply(daemons)
    first.kubectl("rollout", "status", "daemonset/agent", "--timeout=100s")
    found = first.get("pods", "--selector=app=agent")["items"]
    return str(found[0]["metadata"]["name"])


def inside(cluster: RunningCluster, pod: str, *command: str) -> str:
    return cluster.kubectl("exec", pod, "--", *command)


def test_an_agent_has_its_nodes_network(first: RunningCluster, agent: str) -> None:
    assert "inet 10.210.1.11/16" in inside(first, agent, "ip", "address", "show", "eth0")


def test_an_agent_writes_its_nodes_bpf_file_system(first: RunningCluster, agent: str) -> None:
    inside(first, agent, "mkdir", "/sys/fs/bpf/from-agent")
    assert "from-agent" in first.nodes[0].run("ls", "/sys/fs/bpf").split()


def test_an_agent_sees_its_nodes_cgroup_as_the_root(first: RunningCluster, agent: str) -> None:
    assert "kubepods" in inside(first, agent, "ls", str(cgroup.find_mount())).split()


def test_an_agent_sees_namespaces_of_pods_that_came_after_it(first: RunningCluster, agent: str) -> None:
    before = set(inside(first, agent, "ls", "/run/netns").split())
    first.kubectl(
        *("run", "later", f"--image={images.BUSYBOX}", "--image-pull-policy=Never", "--grace-period=1"),
        *("--command", "--", "sleep", "100000"),
    )
    first.kubectl("wait", "--for=condition=Ready", "pod/later", "--timeout=100s")
    address = first.get("pod", "later")["status"]["podIP"]
    (new,) = set(inside(first, agent, "ls", "/run/netns").split()) - before
    shown = inside(first, agent, "nsenter", f"--net=/run/netns/{new}", "ip", "address", "show", "eth0")
    assert f"inet {address}/" in shown


def test_a_runtime_takes_a_network_that_an_agent_installs(first: RunningCluster, agent: str) -> None:
    """What the agent writes is what the runtime reads: with a plugin that is not there, no pod starts."""
    conflist = json.dumps({"cniVersion": "0.4.0", "name": "from-agent", "plugins": [{"type": "no-such"}]})
    inside(first, agent, "sh", "-c", f"echo '{conflist}' >/etc/cni/net.d/00-agent.conflist")
    try:
        first.kubectl("run", "refused", f"--image={images.BUSYBOX}", "--image-pull-policy=Never")
        first.wait(
            "an event of the runtime",
            lambda: any("no-such" in event.get("message", "") for event in first.get("events")["items"]),
        )
    finally:
        inside(first, agent, "rm", "/etc/cni/net.d/00-agent.conflist")
        first.kubectl("delete", "pod/refused", "--now")


def test_two_clusters_of_a_site_are_two(two_clusters: RunningSite) -> None:
    names = [
        [node["metadata"]["name"] for node in each.get("nodes")["items"]] for each in two_clusters.clusters
    ]
    assert names == [["c1-n1"], ["c2-n1"]]


@pytest.mark.parametrize("address", ["10.210.2.11", "fd00:d2::2:b"])
def test_nodes_of_two_clusters_reach_each_other(first: RunningCluster, agent: str, address: str) -> None:
    assert "1 packets received" in first.nodes[0].run("busybox", "ping", "-c", "1", "-W", "5", address)


@pytest.mark.parametrize("address", ["10.210.1.11", "fd00:d2::1:b"])
def test_the_world_outside_reaches_nodes(two_clusters: RunningSite, address: str) -> None:
    assert "1 packets received" in two_clusters.run_outside("busybox", "ping", "-c", "1", "-W", "5", address)


def test_the_world_outside_does_not_reach_pods(two_clusters: RunningSite, first: RunningCluster) -> None:
    pods = first.registered()["c1-n1"][0].split("/", maxsplit=1)[0].rpartition(".")[0]
    said = two_clusters.run_outside("busybox", "ping", "-c", "1", "-W", "1", f"{pods}.1", check=False)
    assert "0 packets received" in said


def test_a_kube_proxy_of_the_older_kind_serves_services(first: RunningCluster) -> None:
    """CoreDNS is ready when it has reached the API server by the address of its service."""
    install_dns(first)
    ready = first.get("deployment", "coredns", "--namespace=kube-system")["status"]["readyReplicas"]
    assert ready == 1
