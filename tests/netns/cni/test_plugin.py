"""CNI commands as a runtime gives them, against a real agent and a real kernel."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from meshd.kernel import netlink
from meshd.kernel.netlink import in_netns
from meshd.kernel.netns import Netns
from tests.netns.cni.node import CniNode, joined, reaches


def test_two_pods_and_the_node_reach_each_other_in_both_families(node: CniNode) -> None:
    first, one = node.add("one")
    _, two = node.add("two")
    assert one.addresses == ["10.77.1.1", "fd77:0:0:1::1"]
    assert all(reaches(first, address) for address in two.addresses)
    assert all(reaches(node.netns, address) for address in one.addresses)
    assert reaches(first, "192.168.70.1")
    assert reaches(first, "fd00::11")


def test_a_namespace_in_which_the_runtime_switched_ipv6_off_gets_it_back(node: CniNode) -> None:
    first = node.pod("one")
    with Netns.open(first) as pod:
        pod.write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")
    one = node.ask("ADD", "one", first)
    assert all(reaches(node.netns, address) for address in one.addresses)
    assert reaches(first, "fd00::11")


def test_pods_of_two_nodes_reach_each_other_by_native_routes(
    node: CniNode, tmp_path: Path, unique_name: str
) -> None:
    other = CniNode(tmp_path / "other", f"{unique_name}b", 2)
    try:
        joined(node, other)
        other.start()
        here, one = node.add("one")
        there, two = other.add("two")
        assert all(reaches(here, address) for address in two.addresses)
        assert all(reaches(there, address) for address in one.addresses)
        assert reaches(node.netns, two.addresses[0])
    finally:
        other.close()


def test_pods_have_the_mtu_of_the_uplink(node: CniNode, unique_name: str) -> None:
    node.agent.kill(signal.SIGTERM)
    with Netns.create("world") as world:
        ends = [
            netlink.VethEnd(node.netns, f"{unique_name}u", (IPv4Interface("192.168.99.1/24"),), mtu=1380),
            netlink.VethEnd(world, "uplink", mtu=1380),
        ]
        netlink.create_veth(*ends)
        netlink.add_route(node.netns, ip_network("0.0.0.0/0"), IPv4Address("192.168.99.2"))
        node.start()
        netns, answer = node.add("one")
        assert [each["mtu"] for each in answer.said["interfaces"]] == [1380, 1380]
        with Netns.open(netns) as pod:
            assert in_netns(pod, "mtu", lambda route: route.get_links(ifname="eth0")[0].get("mtu")) == 1380


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_results_have_the_form_of_the_version_that_was_asked_for(node: CniNode, version: str) -> None:
    netns, answer = node.add("one", version=version, dns={"nameservers": ["10.96.0.10"]})
    said = answer.said
    host, pod = said["interfaces"]
    assert said["cniVersion"] == version
    assert (host["name"], "sandbox" in host) == (node.links()[0], False)
    assert (pod["name"], pod["sandbox"]) == ("eth0", str(netns))
    assert ("mtu" in pod) == (version == "1.1.0")
    assert [each.get("version") for each in said["ips"]] == (
        ["4", "6"] if version < "1.0.0" else [None, None]
    )
    assert [each["address"] for each in said["ips"]] == ["10.77.1.1/32", "fd77:0:0:1::1/128"]
    assert [(each["gateway"], each["interface"]) for each in said["ips"]] == [
        ("169.254.1.1", 1),
        ("fe80::1", 1),
    ]
    assert [each["dst"] for each in said["routes"]] == ["0.0.0.0/0", "::/0"]
    assert said["dns"] == {"nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize(
    ("command", "version", "config", "variables", "code"),
    [
        ("ADD", "0.2.0", {}, {}, 1),
        ("ADD", "9.9.9", {}, {}, 1),
        ("CHECK", "0.3.1", {}, {}, 1),
        ("GC", "1.0.0", {}, {}, 1),
        ("STATUS", "1.0.0", {}, {}, 1),
        ("EAT", "1.0.0", {}, {}, 4),
        ("ADD", "1.0.0", {}, {"CNI_IFNAME": ""}, 4),
        ("ADD", "1.0.0", {}, {"CNI_IFNAME": "a/b"}, 4),
        ("ADD", "1.0.0", {}, {"CNI_IFNAME": "sixteen-letters-"}, 4),
        ("ADD", "1.0.0", {}, {"CNI_CONTAINERID": "../etc"}, 4),
        ("ADD", "1.0.0", {}, {"CNI_NETNS": "/nowhere"}, 3),
        ("ADD", "1.0.0", {}, {"CNI_NETNS": "/etc/passwd"}, 3),
        ("ADD", "1.0.0", {"name": ""}, {}, 7),
        ("ADD", "1.0.0", {"runtimeConfig": {"ips": ["x"]}}, {}, 7),
        ("ADD", "1.0.0", {"runtimeConfig": {"ips": ["10.9.9.9"]}}, {}, 100),
        ("CHECK", "1.0.0", {}, {}, 3),
        ("GC", "1.1.0", {}, {}, 7),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_code_of_the_specification(
    node: CniNode, command: str, version: str, config: dict[str, Any], variables: dict[str, str], code: int
) -> None:
    answer = node.ask(command, "one", node.pod("one"), version=version, variables=variables, **config)
    assert (answer.status, answer.said["code"]) == (1, code)
    assert answer.said["msg"]
    assert node.links() == []


def test_a_namespace_that_is_the_nodes_own_is_refused(node: CniNode) -> None:
    assert node.agent.agent is not None
    own = Path(f"/proc/{node.agent.agent.pid}/ns/net")
    answer = node.ask("ADD", "one", own)
    assert answer.said["msg"].endswith("it is the node's own network namespace")
    assert node.links() == []


def test_every_command_may_be_repeated(node: CniNode) -> None:
    netns, first = node.add("one")
    again = node.ask("ADD", "one", netns)
    assert again == first
    deleted = [node.ask("DEL", "one", netns) for _ in range(3)]
    assert [(each.said, each.status) for each in deleted] == [(None, 0)] * 3
    node.agent.wait(lambda: node.links() == [])
    # Addresses cool down: another pair comes back under the same name.
    third = node.ask("ADD", "one", netns)
    assert third.addresses == ["10.77.1.2", "fd77:0:0:1::2"]
    assert reaches(netns, "192.168.70.1")


def test_a_container_that_comes_back_at_once_is_not_swept_away(node: CniNode) -> None:
    netns, _ = node.add("one")
    for _ in range(10):
        assert node.ask("DEL", "one", netns).status == 0
        answer = node.ask("ADD", "one", netns)
        assert answer.status == 0
        assert node.ask("CHECK", "one", netns, prevResult=answer.said).status == 0
    node.ask("DEL", "other")
    node.add("two")
    assert node.ask("CHECK", "one", netns, prevResult=answer.said).status == 0
    assert reaches(netns, "192.168.70.1")


def test_an_interface_of_somebody_else_is_left_alone_and_nothing_is_kept(node: CniNode) -> None:
    netns = node.pod("one")
    with Netns.open(netns) as pod:
        netlink.create_bridge(pod, "eth0")
    answer = node.ask("ADD", "one", netns)
    assert "File exists" in answer.said["msg"]
    assert node.links() == []
    with Netns.open(netns) as pod:
        assert "eth0" in netlink.link_names(pod)
    # The addresses are free again, after their cool-down.
    assert node.add("two")[1].addresses[0] == "10.77.1.2"


def test_del_succeeds_when_the_namespace_is_gone_and_when_it_is_not_said(node: CniNode) -> None:
    netns, _ = node.add("one")
    node.remove_pod(netns)
    assert node.ask("DEL", "one", netns).status == 0
    node.add("two")
    assert node.ask("DEL", "two").status == 0
    assert node.ask("DEL", "never").status == 0
    node.agent.wait(lambda: node.links() == [])


def test_status_says_when_no_pod_could_be_added_and_when_pods_cannot_be_reached(node: CniNode) -> None:
    assert node.ask("STATUS").status == 0
    node.netns.write_sysctl("net/ipv4/ip_forward", "0")
    limited = node.ask("STATUS")
    assert (limited.said["code"], "net/ipv4/ip_forward is 0" in limited.said["msg"]) == (51, True)
    node.netns.write_sysctl("net/ipv4/ip_forward", "1")
    node.agent.kill(signal.SIGTERM)
    assert node.ask("STATUS").said["code"] == 50
    node.start(podCidrs=["10.78.0.0/32"], coolDownS=3600)
    node.add("one")
    full = node.ask("STATUS")
    assert (full.said["code"], full.said["msg"]) == (
        50,
        "no address left in 10.78.0.0/32: 1 usable, 1 in use",
    )
    refused = node.ask("ADD", "two", node.pod("two"))
    assert (refused.said["code"], refused.said["msg"]) == (100, full.said["msg"])


def test_sixteen_pods_at_once_get_sixteen_addresses(node: CniNode) -> None:
    names = [f"p{number}" for number in range(16)]
    pods = {name: node.pod(name) for name in names}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda name: node.ask("ADD", name, pods[name]), names))
    assert [each.status for each in answers] == [0] * 16
    assert len({address for each in answers for address in each.addresses}) == 32
    assert all(reaches(pods["p0"], each.addresses[0]) for each in answers[1:])


def test_addresses_asked_for_by_name_are_given(node: CniNode) -> None:
    _, answer = node.add("one", runtimeConfig={"ips": ["10.77.1.200/24"]})
    assert answer.addresses == ["10.77.1.200", "fd77:0:0:1::1"]


def test_after_another_plugin_nothing_is_touched_and_the_pod_is_known(node: CniNode) -> None:
    netns = node.pod("one")
    with Netns.open(netns) as pod:
        netlink.create_bridge(pod, "eth0", addresses=[IPv4Interface("10.200.0.7/24")])
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": str(netns)}],
        "ips": [{"address": "10.200.0.7/24", "interface": 0}],
        "dns": {},
        "unknown": {"kept": True},
    }
    answer = node.ask("ADD", "one", netns, version="1.0.0", prevResult=before)
    assert answer.said == before
    assert node.links() == []
    assert node.ask("CHECK", "one", netns, version="1.0.0", prevResult=before).status == 0
    with Netns.open(netns) as pod:
        in_netns(
            pod, "eth0", lambda route: route.flush_addr(index=route.link_lookup(ifname="eth0")[0], family=2)
        )
    assert node.ask("CHECK", "one", netns, version="1.0.0", prevResult=before).said["code"] == 101
    assert node.ask("DEL", "one", netns, version="1.0.0", prevResult=before).status == 0
    with Netns.open(netns) as pod:
        assert "eth0" in netlink.link_names(pod)


def test_the_sockets_mode_lets_root_alone_in(node: CniNode) -> None:
    assert node.socket.stat().st_mode & 0o777 == 0o600
