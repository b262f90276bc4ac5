"""The cluster that tests are given works by itself: with Debian's bridge plugin in meshd's place, all is as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meshd.kernel import cgroup
from scripts.kubernetes import images
from scripts.kubernetes.addons import install_bridge, install_dns
from scripts.kubernetes.cluster import RunningCluster, is_true
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.node_namespaces import SETTINGS
from scripts.kubernetes.site import Wanted, site

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "veth", "ipv6"),
    pytest.mark.needs("command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(400),
    # Of the tests' own machinery, which whatever runs on it shows as well.
    pytest.mark.long,
]
SERVE = "echo $POD >/www/index.html; exec httpd -f -p 8080 -h /www"
# Any: objects of Kubernetes.
Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """Two nodes whose pods have Debian's network, with a kube-proxy each, and CoreDNS."""
    with site(f"{run_name}b", Wanted(proxy="nftables")) as made:
        cluster = made.clusters[0]
        install_bridge(cluster)
        install_dns(cluster)
        yield cluster


@pytest.fixture(scope="module")
def web(cluster: RunningCluster) -> Iterator[list[Object]]:
    """The four pods of a Deployment behind a service called web, on both nodes."""
    container = {
        "name": "web",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", SERVE],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    pod = {
        "containers": [container],
        "topologySpreadConstraints": [spread],
        "terminationGracePeriodSeconds": 0,
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"app": "web"},
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    }
    cluster.apply(deployment, service)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=100s")
    yield cluster.get("pods", "--selector=app=web")["items"]
    cluster.kubectl("delete", "deployment/web", "service/web")


def in_pod(cluster: RunningCluster, pod: Object, script: str) -> str:
    return cluster.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", script)


def fetch(cluster: RunningCluster, pod: Object, host: str) -> str:
    """What a web server answers a pod; tried again while rules of proxies are on their way."""
    literal = f"[{host}]" if ":" in host else host
    said: list[str] = []

    def answered() -> bool:
        try:
            # Not `wget -T`: with it, Debian 12's busybox-static dies.
            said.append(in_pod(cluster, pod, f"timeout 2 wget -q -O - http://{literal}/"))
        except SiteError:
            return False
        return True

    cluster.wait(f"http://{literal}/", answered)
    return said[-1].strip()


def test_both_nodes_are_ready_with_networks_of_both_families(cluster: RunningCluster) -> None:
    nodes = cluster.get("nodes")["items"]
    assert [is_true(node, "Ready") for node in nodes] == [True, True]
    families = [["v6" if ":" in each else "v4" for each in node["spec"]["podCIDRs"]] for node in nodes]
    assert families == [["v4", "v6"]] * 2


def test_pods_run_on_both_nodes(web: list[Object]) -> None:
    assert {pod["status"]["phase"] for pod in web} == {"Running"}
    assert {pod["spec"]["nodeName"] for pod in web} == {"c1-n1", "c1-n2"}


def test_a_command_runs_in_a_pod_and_its_log_can_be_read(cluster: RunningCluster) -> None:
    cluster.kubectl(
        *("run", "talker", f"--image={images.BUSYBOX}", "--image-pull-policy=Never", "--grace-period=1"),
        *("--command", "--", "sh", "-c", "echo spoken; exec sleep 1000"),
    )
    cluster.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=100s")
    assert cluster.kubectl("logs", "talker") == "spoken\n"
    assert cluster.kubectl("exec", "talker", "--", "hostname") == "talker\n"
    cluster.kubectl("delete", "pod/talker", "--now")


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_pods_of_two_nodes_reach_each_other(cluster: RunningCluster, web: list[Object], family: int) -> None:
    one = web[0]
    other = next(pod for pod in web if pod["spec"]["nodeName"] != one["spec"]["nodeName"])
    address = other["status"]["podIPs"][family]["ip"]
    literal = f"[{address}]" if family else address
    answer = in_pod(cluster, one, f"timeout 5 wget -q -O - http://{literal}:8080/")
    assert answer.strip() == other["metadata"]["name"]


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_pod_reaches_a_service_through_the_kube_proxy(
    cluster: RunningCluster, web: list[Object], family: int
) -> None:
    address = cluster.get("service", "web")["spec"]["clusterIPs"][family]
    assert fetch(cluster, web[0], address) in {pod["metadata"]["name"] for pod in web}


def test_a_pod_finds_a_service_by_its_name(cluster: RunningCluster, web: list[Object]) -> None:
    assert fetch(cluster, web[0], "web.default.svc.cluster.local") in {pod["metadata"]["name"] for pod in web}


def test_a_pod_reaches_the_world_outside_under_its_nodes_address(
    cluster: RunningCluster, web: list[Object]
) -> None:
    assert "1 packets received" in in_pod(cluster, web[0], "ping -c 1 -W 5 203.0.113.1")


def test_the_pods_of_a_node_are_in_its_cgroup(cluster: RunningCluster) -> None:
    root = cgroup.find_mount() / cluster.nodes[0].place.cgroup
    assert (root / "kubepods").is_dir()


def test_a_node_sees_its_own_cgroup_as_the_root(cluster: RunningCluster) -> None:
    mount = cgroup.find_mount()
    assert "kubepods" in cluster.nodes[0].run("ls", mount).split()


def test_each_node_has_a_bpf_file_system_of_its_own(cluster: RunningCluster) -> None:
    first, second = cluster.nodes
    first.run("mkdir", "/sys/fs/bpf/only-here")
    assert "only-here" in first.run("ls", "/sys/fs/bpf").split()
    assert "only-here" not in second.run("ls", "/sys/fs/bpf").split()
    first.run("rmdir", "/sys/fs/bpf/only-here")


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_kubelets_set_for_a_whole_machine_is_a_file_of_their_node(
    cluster: RunningCluster, setting: str
) -> None:
    node = cluster.nodes[0]
    copy = node.place.state / "settings" / setting
    assert node.run("stat", "--format=%i", f"/proc/sys/{setting}").strip() == str(copy.stat().st_ino)


def test_pods_go_on_while_a_kubelet_and_its_runtime_are_started_again(
    cluster: RunningCluster, web: list[Object]
) -> None:
    node = cluster.nodes[0]
    for name in ("kubelet", "containerd"):
        node.stop(name)
    for name in ("containerd", "kubelet"):
        node.start(name)
    cluster.wait("both nodes", lambda: len(cluster.ready_nodes()) == 2)
    pods = cluster.get("pods", "--selector=app=web")["items"]
    assert {pod["metadata"]["uid"] for pod in pods} == {pod["metadata"]["uid"] for pod in web}
    assert [restarts(pod) for pod in pods] == [0, 0, 0, 0]


def restarts(pod: Object) -> int:
    return sum(each["restartCount"] for each in pod["status"]["containerStatuses"])


def test_the_api_server_comes_back_with_what_it_had(cluster: RunningCluster, web: list[Object]) -> None:
    cluster.stop_api_server()
    with pytest.raises(SiteError):
        cluster.kubectl("get", "pods", "--request-timeout=5s")
    cluster.start_api_server()
    assert len(cluster.get("pods", "--selector=app=web")["items"]) == len(web)
