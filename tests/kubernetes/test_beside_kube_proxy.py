"""meshd beside a kube-proxy: who asks from outside is served by its rules, also where the pods are meshd's; who asks from
inside by meshd, as the Service says."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from meshd.kernel import cgroup
from scripts.kubernetes import images
from scripts.kubernetes.cluster import RunningCluster, RunningNode, answer
from scripts.kubernetes.site import RunningSite, Wanted, site
from tests.kubernetes.installing import IMAGE, ON_NODES, meshctl
from tests.netns.runtime import agent_image

# Long: a cluster of its own, with a kube-proxy, takes two minutes.
pytestmark = [*ON_NODES, pytest.mark.long, pytest.mark.needs("command:nft")]
SERVE = "echo $POD >/www/index.html; exec httpd -f -p 8080 -h /www"
HOST_PORT = 18080
# So many that one of two is missed by chance once in a million times.
ASK = 20
Object = dict[str, Any]  # Any: objects of Kubernetes


@pytest.fixture(scope="module")
def place(run_name: str) -> Iterator[RunningSite]:
    """Two nodes with a kube-proxy and meshd; a pod called after its node on each, the first with a host port."""
    archive = agent_image.archive()
    with site(f"{run_name}q", Wanted(proxy="nftables")) as made:
        cluster = made.clusters[0]
        for node in cluster.nodes:
            node.import_image(archive)
        done = meshctl(cluster, "install", *IMAGE, "--no-connectivity-test")
        assert done.returncode == 0, done.stdout + done.stderr
        pods = [pod(node.name, node.name, app="web") for node in cluster.nodes]
        pods[0]["spec"]["containers"][0]["ports"][0]["hostPort"] = HOST_PORT
        cluster.apply(*pods, *(pod(f"client-{node.name}", node.name, app="client") for node in cluster.nodes))
        cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=100s")
        yield made


@pytest.fixture(scope="module")
def cluster(place: RunningSite) -> RunningCluster:
    return place.clusters[0]


def pod(name: str, node: str, app: str) -> Object:
    """A web server on ``node`` that answers with its name, ready as long as /www/ready is there."""
    container = {
        "name": "web",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", f"touch /www/ready; {SERVE}"],
        "env": [{"name": "POD", "value": name}],
        "ports": [{"name": "answers", "containerPort": 8080}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8080},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0},
    }


def service(cluster: RunningCluster, name: str, **spec: object) -> Object:
    """A service of the web servers, by the name of their port; as the API server completed it."""
    wanted = {
        "selector": {"app": "web"},
        "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"port": 80, "targetPort": "answers"}],
        **spec,
    }
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": wanted})
    found: Object = cluster.get("service", name)
    return found


def fetching(address: str, port: int, times: int) -> str:
    """A script that prints what a web server answers, or that it does not."""
    literal = f"[{address}]" if ip_address(address).version == 6 else address
    # Not `wget -T`: with it, Debian 12's busybox-static dies.
    once = f"timeout 5 busybox wget -q -O - http://{literal}:{port}/ 2>/dev/null || echo none"
    return f"for i in $(seq {times}); do {once}; done"


def answers(cluster: RunningCluster, client: str, address: str, port: int = 80, times: int = ASK) -> set[str]:
    """Who answers ``client``, a pod."""
    return set(cluster.kubectl("exec", client, "--", "sh", "-c", fetching(address, port, times)).split())


def on_node(node: RunningNode, address: str, port: int) -> set[str]:
    """Who answers a process of the node's own, which is in its cgroup as well as in its network."""
    own = cgroup.find_mount() / node.place.system / "namespaces"
    join = ("sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', own)
    fetch = (*node.enter, "sh", "-c", fetching(address, port, ASK))
    return set(answer([*join, *fetch], check=True).split())


def outside(place: RunningSite, address: str, port: int, times: int = ASK) -> set[str]:
    """Who answers a client outside of all clusters."""
    return set(place.run_outside("sh", "-c", fetching(address, port, times)).split())


def node_addresses(cluster: RunningCluster, number: int) -> list[str]:
    """Of both families."""
    return [str(each.ip) for each in cluster.nodes[number].place.addresses]


def becomes(cluster: RunningCluster, wanted: set[str], client: str, address: str) -> None:
    """Waits until these answer, and no others."""
    cluster.wait(f"{wanted} answer", lambda: answers(cluster, client, address) == wanted)


BOTH = {"c1-n1", "c1-n2"}
CLIENT = "client-c1-n1"


def test_who_is_outside_reaches_pods_of_both_nodes_by_the_node_port_of_either(
    place: RunningSite, cluster: RunningCluster
) -> None:
    port = service(cluster, "ported", type="NodePort")["spec"]["ports"][0]["nodePort"]
    for address in (*node_addresses(cluster, 0), *node_addresses(cluster, 1)):
        cluster.wait(f"{address} serves", lambda at=address: "none" not in outside(place, at, port, 1))
        assert outside(place, address, port) == BOTH


def test_a_node_port_that_is_local_leads_to_the_nodes_own_pod_which_sees_the_client(
    place: RunningSite, cluster: RunningCluster
) -> None:
    made = service(cluster, "local-port", type="NodePort", externalTrafficPolicy="Local")
    port = made["spec"]["ports"][0]["nodePort"]
    for number, own in enumerate(("c1-n1", "c1-n2")):
        for address in node_addresses(cluster, number):
            cluster.wait(f"{address} serves", lambda at=address: "none" not in outside(place, at, port, 1))
            assert outside(place, address, port, 5) == {own}


def test_who_is_outside_reaches_a_pod_by_its_host_port(place: RunningSite, cluster: RunningCluster) -> None:
    for address in node_addresses(cluster, 0):
        assert outside(place, address, HOST_PORT, 5) == {"c1-n1"}


def test_pods_and_nodes_reach_a_node_port(cluster: RunningCluster) -> None:
    port = service(cluster, "from-inside", type="NodePort")["spec"]["ports"][0]["nodePort"]
    for address in (*node_addresses(cluster, 0), *node_addresses(cluster, 1)):
        cluster.wait(
            f"{address} serves", lambda at=address: "none" not in answers(cluster, CLIENT, at, port, 1)
        )
        assert answers(cluster, CLIENT, address, port) == BOTH
        assert on_node(cluster.nodes[0], address, port) == BOTH


def test_a_pod_that_is_not_ready_is_asked_no_more_and_one_that_is_back_is(cluster: RunningCluster) -> None:
    for address in service(cluster, "moving")["spec"]["clusterIPs"]:
        becomes(cluster, BOTH, CLIENT, address)
    cluster.kubectl("exec", "c1-n2", "--", "rm", "/www/ready")
    try:
        becomes(cluster, {"c1-n1"}, CLIENT, address)
    finally:
        cluster.kubectl("exec", "c1-n2", "--", "touch", "/www/ready")
    becomes(cluster, BOTH, CLIENT, address)


def test_a_pod_that_is_deleted_is_asked_no_more(cluster: RunningCluster) -> None:
    address = service(cluster, "leaving", selector={"app": "leaving"})["spec"]["clusterIP"]
    cluster.apply(*(pod(f"leaving-{node}", node, app="leaving") for node in sorted(BOTH)))
    becomes(cluster, {"leaving-c1-n1", "leaving-c1-n2"}, CLIENT, address)
    cluster.kubectl("delete", "pod", "leaving-c1-n2")
    becomes(cluster, {"leaving-c1-n1"}, CLIENT, address)
    cluster.kubectl("delete", "pod", "leaving-c1-n1")
    becomes(cluster, {"none"}, CLIENT, address)


def test_unready_pods_are_asked_where_the_service_says_so(cluster: RunningCluster) -> None:
    unready = pod("never-ready", "c1-n2", app="unready")
    unready["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = "/absent"
    cluster.apply(unready)
    selector = {"app": "unready"}
    plain = service(cluster, "patient", selector=selector)["spec"]["clusterIP"]
    hasty = service(cluster, "hasty", selector=selector, publishNotReadyAddresses=True)["spec"]["clusterIP"]
    becomes(cluster, {"never-ready"}, CLIENT, hasty)
    assert answers(cluster, CLIENT, plain, times=3) == {"none"}


def test_internal_traffic_that_is_local_stays_on_the_clients_node(cluster: RunningCluster) -> None:
    address = service(cluster, "local", internalTrafficPolicy="Local")["spec"]["clusterIP"]
    for node in sorted(BOTH):
        becomes(cluster, {node}, f"client-{node}", address)


def test_a_client_stays_with_its_pod_where_the_service_says_so(cluster: RunningCluster) -> None:
    affine = service(cluster, "affine", sessionAffinity="ClientIP")["spec"]["clusterIPs"]
    for address in affine:
        cluster.wait("it serves", lambda at=address: "none" not in answers(cluster, CLIENT, at, times=1))
        assert len(answers(cluster, CLIENT, address)) == 1
