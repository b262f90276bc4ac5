"""``meshctl kube`` on real nodes without a network: agents run from the image with the DaemonSet's rights, are the network,
are replaced, and leave."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.kubernetes import images
from scripts.kubernetes.cluster import RunningCluster
from tests.kubernetes.installing import IMAGE, NAMESPACE, ON_NODES, install, meshctl
from tests.kubernetes.load import load

pytestmark = ON_NODES


def pinned(cluster: RunningCluster) -> list[str]:
    """Maps and links of agents in the kernel, of all nodes."""
    look = "find /sys/fs/bpf/meshd -type f 2>/dev/null || true"
    return [line for node in cluster.nodes for line in node.run("sh", "-c", look).splitlines()]


def test_agents_run_on_every_node_and_know_the_services_of_the_cluster(installed: RunningCluster) -> None:
    status = meshctl(installed, "status")
    assert status.returncode == 0, status.stdout
    assert "2 of 2 nodes have it, 2 are available" in status.stdout
    assert pinned(installed)
    pods = installed.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent")["items"]
    for pod in pods:
        listed = installed.kubectl(
            "exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "meshctl", "service", "list"
        )
        assert "kubernetes" in listed


def test_a_node_is_ready_and_its_pods_run_once_meshd_is_there(installed: RunningCluster) -> None:
    installed.wait("both nodes are ready", lambda: len(installed.ready_nodes()) == 2)
    for node in installed.nodes:
        installed.apply(pod_on(node.name))
    installed.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=one", "--timeout=60s")
    for pod in installed.get("pods", "-l", "app=one")["items"]:
        addresses = [each["ip"] for each in pod["status"]["podIPs"]]
        assert len(addresses) == 2
        (node,) = (each for each in installed.nodes if each.name == pod["spec"]["nodeName"])
        for address in addresses:
            node.run("busybox", "ping", "-c", "1", "-W", "5", address)
    installed.kubectl("delete", "pod", "-l", "app=one", "--grace-period=1")


def pod_on(node: str) -> dict[str, object]:
    """A pod that does nothing, on ``node``."""
    container = {
        "name": "one",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "exec sleep 3600"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"one-{node}", "namespace": "default", "labels": {"app": "one"}},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0},
    }


@pytest.mark.long
def test_an_upgrade_takes_one_agent_away_at_a_time(installed: RunningCluster, tmp_path: Path) -> None:
    file = tmp_path / "meshd.yaml"
    file.write_text("logLevel: debug\n")
    done = meshctl(installed, "upgrade", *IMAGE, "--no-connectivity-test", "--config", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 nodes have it, 2 are available" in done.stdout
    assert " 0 are available" not in done.stdout


@pytest.mark.long
def test_an_image_that_no_node_can_have_is_named_and_stops_at_the_first_node(
    installed: RunningCluster,
) -> None:
    refused = ("--image", "registry.invalid/meshd:none", "--no-node-look")
    done = meshctl(installed, "upgrade", *refused, "--timeout", "30")
    assert done.returncode == 1
    assert "registry.invalid/meshd:none" in done.stderr
    assert "1 of 2 nodes have it, 1 are available" in done.stderr
    install(installed)


@pytest.mark.long
def test_an_image_that_no_node_can_have_is_refused_before_anything_is_changed(
    installed: RunningCluster,
) -> None:
    done = meshctl(installed, "upgrade", "--image", "registry.invalid/meshd:none")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert re.search(r"^refused +image .*registry.invalid/meshd:none", done.stdout, re.MULTILINE)
    assert meshctl(installed, "status").returncode == 0


def test_what_only_a_node_knows_is_asked_there_and_refuses(installed: RunningCluster) -> None:
    well = meshctl(installed, "check", "--without-kube-proxy")
    assert well.returncode == 0, well.stdout + well.stderr
    for concern in ("cgroup v2", "kernel features", "pods' cgroups", "MTU", "nodes' routes"):
        assert re.search(rf"^ok +{concern} ", well.stdout, re.MULTILINE), well.stdout
    node = installed.nodes[1]
    service = next(installed.place.services[0].subnets(new_prefix=24))[77]
    node.run("ip", "link", "add", "docker0", "type", "bridge")
    node.run("ip", "address", "add", f"{service}/24", "dev", "docker0")
    node.run("ip", "link", "set", "eth0", "mtu", "1400")
    try:
        done = meshctl(installed, "check", "--without-kube-proxy")
    finally:
        node.run("ip", "link", "delete", "docker0")
        node.run("ip", "link", "set", "eth0", "mtu", "1500")
    assert done.returncode == 1
    assert f"c1-n2 has {service} on docker0, of the services" in done.stdout
    assert "uplinks carry from 1400 (c1-n2) to 1500 bytes" in done.stdout
    names = installed.get("namespaces")["items"]
    left = [each["metadata"]["name"] for each in names if each["status"]["phase"] == "Active"]
    assert not [each for each in left if each.startswith("meshd-look")]


@pytest.fixture
def talking(installed: RunningCluster) -> Iterator[load.Load]:
    """Clients on both nodes that will ask servers on both nodes by their addresses."""
    made = load.Load(installed)
    pods = installed.get("pods", "-l", "app=server")["items"]
    made.targets = [
        load.target(f"{kind} to {pod['spec']['nodeName']}", pod["status"]["podIP"], load.PORT, kind, 2)
        for pod in pods
        for kind in ("connections", "streams")
    ]
    yield made
    made.close()
    installed.kubectl("delete", "daemonset/server", "service/web", "service/sticky", "configmap/load")


def servers(cluster: RunningCluster) -> list[tuple[str, str, int]]:
    """Name, address and restarts of each."""
    pods = cluster.get("pods", "-l", "app=server")["items"]
    return sorted(
        (
            pod["metadata"]["name"],
            pod["status"]["podIP"],
            pod["status"]["containerStatuses"][0]["restartCount"],
        )
        for pod in pods
    )


def test_an_uninstall_gives_nodes_back_and_an_install_takes_them_again_while_pods_talk(
    installed: RunningCluster, talking: load.Load
) -> None:
    before = servers(installed)
    with talking.running() as seen:
        uninstall(installed)
        # What it left are pods, which reach each other without us, and are ours again.
        install(installed)
    report = load.Report(seen)
    assert report.lost() == [], str(report)
    assert report.too_few() == []
    assert servers(installed) == before
    # New pods reach old ones, and services have old ones as backends.
    address = installed.get("service", "web")["spec"]["clusterIP"]
    talking.targets = [load.target("web", address, 80, "connections", 2)]
    with talking.running() as seen:
        pass
    assert load.Report(seen).lost() == []


def uninstall(installed: RunningCluster) -> None:
    """meshd is gone from ``installed``, from its nodes and from its API server."""
    assert pinned(installed)
    done = meshctl(installed, "uninstall")
    assert done.returncode == 0, done.stdout + done.stderr
    assert pinned(installed) == []
    assert all("meshd" not in node.run("ls", "/etc/cni/net.d", "/opt/cni/bin") for node in installed.nodes)
    assert "meshd-system" not in installed.kubectl("get", "namespaces", "-o", "name")
    everywhere = ("daemonset,configmap,serviceaccount", "-A", "-l", "app.kubernetes.io/name=meshd")
    assert installed.get(*everywhere)["items"] == []
    assert (
        installed.get("clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/name=meshd")["items"] == []
    )
    again = meshctl(installed, "uninstall")
    assert again.returncode == 0, again.stdout + again.stderr
