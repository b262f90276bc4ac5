"""meshd is the only network of a real cluster: its nodes become ready with it, and their pods reach what pods have to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.kubernetes import images
from scripts.kubernetes.addons import install_dns
from scripts.kubernetes.cluster import RunningCluster, RunningNode, is_true
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.mesh_agents import MeshAgents
from tests.kubernetes.rights import Right, taken_away

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(400),
]
TAINT = "meshd.io/agent-not-ready"
OUTSIDE = ("203.0.113.1", "2001:db8:ff::1")
SERVE = "echo $POD >/www/index.html; exec httpd -f -p 8080 -h /www"
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
Object = dict[str, Any]  # Any: objects of Kubernetes


@pytest.fixture(scope="module")
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """Two nodes with the taint that keeps pods away until there is an agent; no kube-proxy."""
    with site(f"{run_name}n", Wanted()) as made:
        cluster = made.clusters[0]
        cluster.wait("networks of pods", lambda: len(cluster.registered()) == 2)
        for node in cluster.nodes:
            cluster.kubectl("taint", "node", node.name, f"{TAINT}:NoSchedule")
        yield cluster


@pytest.fixture(scope="module")
def agents(cluster: RunningCluster) -> MeshAgents:
    """An agent on each node, ready."""
    made = MeshAgents(cluster)
    for node in cluster.nodes:
        made.start(node)
    made.wait_ready()
    return made


@pytest.fixture(scope="module")
def web(cluster: RunningCluster, agents: MeshAgents) -> list[Object]:
    """The four pods of a Deployment behind a service called web, on both nodes; beside them, CoreDNS."""
    container = {
        "name": "web",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", SERVE],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
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
    install_dns(cluster)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=100s")
    found: list[Object] = cluster.get("pods", "--selector=app=web")["items"]
    return found


def in_pod(cluster: RunningCluster, pod: Object, script: str) -> str:
    return cluster.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", script)


def fetch(cluster: RunningCluster, pod: Object, host: str, port: int = 80) -> str:
    """What a web server answers a pod."""
    literal = f"[{host}]" if ":" in host else host
    # Not `wget -T`: with it, Debian 12's busybox-static dies.
    return in_pod(cluster, pod, f"timeout 10 wget -q -O - http://{literal}:{port}/").strip()


def addresses(pod: Object) -> list[str]:
    return [each["ip"] for each in pod["status"]["podIPs"]]


def name_of(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def node_of(cluster: RunningCluster, pod: Object) -> RunningNode:
    return next(node for node in cluster.nodes if node.name == pod["spec"]["nodeName"])


def taints(cluster: RunningCluster) -> list[str]:
    nodes = cluster.get("nodes")["items"]
    return [each["key"] for node in nodes for each in node["spec"].get("taints", [])]


def test_nodes_lose_the_taint_and_say_that_their_network_is_there(
    cluster: RunningCluster, agents: MeshAgents
) -> None:
    cluster.wait("no taints", lambda: taints(cluster) == [])
    for node in cluster.get("nodes")["items"]:
        said = {each["type"]: (each["status"], each["reason"]) for each in node["status"]["conditions"]}
        assert said["NetworkUnavailable"] == ("False", "MeshdIsUp")
        assert is_true(node, "Ready")


def test_pods_have_addresses_of_their_node_in_both_families(
    cluster: RunningCluster, web: list[Object]
) -> None:
    assert {pod["spec"]["nodeName"] for pod in web} == {"c1-n1", "c1-n2"}
    assert [["v6" if ":" in each else "v4" for each in addresses(pod)] for pod in web] == [["v4", "v6"]] * 4


@FAMILIES
def test_pods_reach_each_other_on_their_node_and_on_the_other(
    cluster: RunningCluster, web: list[Object], family: int
) -> None:
    answers = [fetch(cluster, web[0], addresses(pod)[family], 8080) for pod in web]
    assert answers == [name_of(pod) for pod in web]


@FAMILIES
def test_a_pod_reaches_a_service_by_its_address(
    cluster: RunningCluster, web: list[Object], family: int
) -> None:
    address = cluster.get("service", "web")["spec"]["clusterIPs"][family]
    assert fetch(cluster, web[0], address) in {name_of(pod) for pod in web}


def test_a_pod_finds_a_service_by_its_name(cluster: RunningCluster, web: list[Object]) -> None:
    assert fetch(cluster, web[0], "web.default.svc.cluster.local") in {name_of(pod) for pod in web}


def test_a_pod_reaches_the_api_server_by_the_address_of_its_service(
    cluster: RunningCluster, web: list[Object]
) -> None:
    address = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    assert in_pod(cluster, web[0], f"nc -w 5 {address} 443 </dev/null && echo reached") == "reached\n"


@FAMILIES
def test_a_pod_reaches_both_nodes_and_they_reach_it(
    cluster: RunningCluster, web: list[Object], family: int
) -> None:
    for node in cluster.nodes:
        address = list(node.place.addresses)[family].ip
        assert "1 packets received" in in_pod(cluster, web[0], f"ping -c 1 -W 5 {address}")
        assert "1 packets received" in node.run(
            "busybox", "ping", "-c", "1", "-W", "5", addresses(web[0])[family]
        )


@FAMILIES
def test_a_pod_reaches_the_world_outside(cluster: RunningCluster, web: list[Object], family: int) -> None:
    assert "1 packets received" in in_pod(cluster, web[0], f"ping -c 1 -W 5 {OUTSIDE[family]}")


def test_a_taint_that_somebody_puts_back_is_removed_again(
    cluster: RunningCluster, agents: MeshAgents
) -> None:
    cluster.kubectl("taint", "node", "c1-n1", f"{TAINT}:NoSchedule", "--overwrite")
    cluster.wait("no taints", lambda: taints(cluster) == [])


def test_a_right_that_is_missing_is_named_and_used_when_it_is_there_again_without_a_restart(
    cluster: RunningCluster, agents: MeshAgents
) -> None:
    right = Right("", "nodes", "patch")
    node = cluster.nodes[0]

    def complaints() -> list[str]:
        return [each for each in agents.status(node)["warnings"] if right.complaint in each]

    instance = agents.status(node)["instance"]
    with taken_away(cluster, right):
        cluster.kubectl("taint", "node", node.name, f"{TAINT}:NoSchedule", "--overwrite")
        cluster.wait("a complaint", lambda: len(complaints()) == 1)
        assert complaints()[0].startswith("node: taints cannot be written and stand: patch nodes c1-n1: 403")
        assert agents.is_ready(node)
    cluster.wait("no taints", lambda: taints(cluster) == [])
    cluster.wait("no complaint", lambda: complaints() == [])
    assert agents.status(node)["instance"] == instance


def test_a_policy_is_counted_and_told_that_nobody_enforces_it_once(
    cluster: RunningCluster, agents: MeshAgents
) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny-all"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    cluster.apply(policy)

    def told() -> list[Object]:
        found = cluster.get("events", "--field-selector=reason=PolicyNotEnforced")["items"]
        return [each for each in found if each["involvedObject"]["name"] == "deny-all"]

    sentence = "policies are not enforced: 1 NetworkPolicy"
    for node in cluster.nodes:
        cluster.wait("the count", lambda node=node: sentence in agents.status(node)["warnings"])
    cluster.wait("the event", lambda: bool(told()))
    assert [(each["type"], each["count"]) for each in told()] == [("Warning", 1)]
    cluster.kubectl("delete", "networkpolicy", "deny-all")


def test_pods_outlive_an_agent_that_is_killed_and_started_while_the_api_server_is_away(
    cluster: RunningCluster, agents: MeshAgents, web: list[Object]
) -> None:
    pod, other = web[0], next(each for each in web if each["spec"]["nodeName"] != web[0]["spec"]["nodeName"])
    node = node_of(cluster, pod)
    agents.stop(node, signal.SIGKILL)
    assert fetch(cluster, pod, addresses(other)[0], 8080) == name_of(other)
    cluster.stop_api_server()
    try:
        agents.start(node)
        cluster.wait("the agent", lambda: agents.is_ready(node))
        assert agents.ask(node, "healthz") == "ok"
        host = addresses(pod)[0]
        assert node.run("busybox", "wget", "-q", "-O", "-", f"http://{host}:8080/").strip() == name_of(pod)
    finally:
        cluster.start_api_server()
    assert fetch(cluster, other, addresses(pod)[1], 8080) == name_of(pod)
    restarted = cluster.get("pod", name_of(pod))
    assert sum(each["restartCount"] for each in restarted["status"]["containerStatuses"]) == 0
