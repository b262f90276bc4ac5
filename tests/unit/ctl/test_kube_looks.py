"""What nodes say of themselves: what is refused for it, what is only told, and that a look leaves nothing on a node."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from meshd.ctl.kube import looks, manifests, node_findings, node_look
from meshd.ctl.kube.findings import Accepted, Facts, Level, Node
from meshd.ctl.kube.looks import Look, Missing, SeenAddress, SeenRoute
from meshd.ctl.kube.manifests import Choice

GOOD = Look(
    addresses=(
        SeenAddress("eth0", ip_interface("10.0.0.1/24")),
        SeenAddress("kube-ipvs0", ip_interface("10.96.0.1/32")),
    ),
    routes=(
        SeenRoute(ip_network("10.0.0.0/24"), "eth0", protocol=2),
        # Its own pods; the other node's, by us and by the plugin that was there before; everything.
        SeenRoute(ip_network("10.244.1.7/32"), "mpod1", protocol=3),
        SeenRoute(ip_network("10.244.2.0/24"), "eth0", "10.0.0.2", 177),
        SeenRoute(ip_network("10.244.2.0/24"), "eth0", "10.0.0.2", 3),
        SeenRoute(ip_network("10.0.0.0/8"), "vpn0"),
    ),
)
FACTS = Facts(
    nodes=(
        Node("a", pod_cidrs=("10.244.1.0/24", "fd00:1::/64"), addresses=("10.0.0.1",), look=GOOD),
        Node("b", pod_cidrs=("10.244.2.0/24",), addresses=("10.0.0.2",), look=Look()),
    ),
    service_cidrs=("10.96.0.0/16",),
)


def judged(look: Look, accepted: Accepted | None = None) -> dict[str, Level]:
    """What is not in order, by concern, when node a says ``look``."""
    first, second = FACTS.nodes
    facts = replace(FACTS, nodes=(replace(first, look=look), second))
    found = node_findings.findings(facts, accepted or Accepted())
    return {each.about: each.level for each in found if each.level is not Level.OK}


def with_address(link: str, address: str) -> Look:
    return replace(GOOD, addresses=(SeenAddress(link, ip_interface(address)),))


def with_route(to: str, link: str, gateway: str = "") -> Look:
    return replace(GOOD, routes=(SeenRoute(ip_network(to), link, gateway),))


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (GOOD, {}),
        (replace(GOOD, refused="no bpffs"), {"kernel features": Level.REFUSED}),
        (replace(GOOD, missing=(Missing("tc", "no pods"),)), {"kernel features": Level.REFUSED}),
        (replace(GOOD, missing=(Missing("sock_destroy", "waits"),)), {"kernel features": Level.WARNING}),
        (replace(GOOD, pods=False), {"pods' cgroups": Level.WARNING}),
        (replace(GOOD, mtus=(9000,)), {"MTU": Level.WARNING}),
        (replace(GOOD, mtus=(1340, 1500)), {"MTU": Level.REFUSED}),
        (replace(GOOD, mtus=()), {}),
        (with_address("docker0", "10.244.1.1/16"), {"nodes' routes": Level.REFUSED}),
        (with_address("eth1", "10.96.3.1/24"), {"nodes' routes": Level.REFUSED}),
        (with_address("docker0", "172.17.0.1/16"), {}),
        (with_route("10.244.2.0/25", "vpn0", "10.8.0.1"), {"nodes' routes": Level.REFUSED}),
        (with_route("10.96.0.0/16", "vpn0"), {"nodes' routes": Level.REFUSED}),
        (with_route("fd00:9::/64", "vpn0"), {}),
    ],
)
def test_each_look_is_judged(look: Look, expected: dict[str, Level]) -> None:
    assert judged(look) == expected


def test_what_another_plugin_has_there_is_told_where_it_is_accepted() -> None:
    cni0 = with_address("cni0", "10.244.1.1/24")
    assert judged(cni0, Accepted(other_cni=True)) == {"nodes' routes": Level.WARNING}


def test_a_small_mtu_does_not_matter_to_pods_without_ipv6() -> None:
    first, second = FACTS.nodes
    nodes = (replace(first, pod_cidrs=("10.244.1.0/24",), look=replace(GOOD, mtus=(1300,))), second)
    found = node_findings.findings(replace(FACTS, nodes=nodes), Accepted())
    assert [each.level for each in found if each.about == "MTU"] == [Level.WARNING]


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("ImagePullBackOff: not found", {"image": Level.REFUSED}),
        ("its kubelet does not answer", {"nodes": Level.WARNING}),
    ],
)
def test_an_image_that_nodes_cannot_have_refuses_and_a_node_that_is_away_does_not(
    why: str, expected: dict[str, Level]
) -> None:
    found = node_findings.findings(replace(FACTS, not_looked={"c": why}), Accepted())
    assert {each.about: each.level for each in found if each.level is not Level.OK} == expected


def test_nothing_is_said_of_nodes_that_nobody_was_to_look_at() -> None:
    assert node_findings.findings(Facts(nodes=(Node("a"),)), Accepted()) == []


def test_a_pod_that_looks_has_no_more_than_agents_and_makes_no_directory() -> None:
    pod = node_look.pod("look-0", "a", "meshd:9")
    (agents,) = (each for each in manifests.objects(Choice()) if each["kind"] == "DaemonSet")
    agent = agents["spec"]["template"]["spec"]["containers"][0]
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"] == agent["securityContext"]
    assert {each["hostPath"]["type"] for each in pod["spec"]["volumes"]} == {"Directory"}
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["spec"]["volumes"]
    }
    assert all(each["readOnly"] for each in container["volumeMounts"])


@pytest.mark.parametrize("said", [{}, {"refused": "", "missing": None}, {"refused": "", "missing": [{}]}])
def test_what_is_no_look_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no look"):
        looks.parse(said)
