"""meshd in a list of plugins: Debian's portmap and bandwidth after it, Debian's bridge before it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.agent.agent_node import VIP, endpoint_slice, service
from tests.netns.cni.chain import NEEDS, Chain, meshd
from tests.netns.cni.node import CniNode, reaches
from tests.netns.cni.streams import asked, serving

pytestmark = pytest.mark.needs(NEEDS)

NODE, OUTSIDE = ("192.168.99.1", "fd99::1"), ("192.168.99.2", "fd99::2")
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
HOST_PORT, PORT = 8080, 80


@pytest.fixture
def outside(node: CniNode, unique_name: str) -> Iterator[Netns]:
    """The world: a namespace behind the node's default route."""
    with Netns.create("outside") as world:
        prefixes = (24, 64)
        ends = [
            netlink.VethEnd(
                netns,
                name,
                tuple(ip_interface(f"{each}/{prefix}") for each, prefix in zip(own, prefixes, strict=True)),
            )
            for netns, name, own in ((node.netns, f"{unique_name}u", NODE), (world, "eth0", OUTSIDE))
        ]
        netlink.create_veth(ends[0], ends[1])
        for default, via in zip(("0.0.0.0/0", "::/0"), OUTSIDE, strict=True):
            netlink.add_route(node.netns, ip_network(default), ip_address(via))
        yield world


def run_in(netns: Netns, *command: str) -> str:
    """What ``command`` prints there."""
    done = netns.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert done.returncode == 0, done.stderr
    return done.stdout


def load_rules(netns: Netns, rules: str) -> None:
    netns.run(lambda: subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True))


def mapping() -> list[dict[str, Any]]:
    return [{"hostPort": HOST_PORT, "containerPort": PORT, "protocol": "tcp"}]


def test_a_host_port_of_portmap_leads_to_the_pod_from_outside_and_back(node: CniNode, outside: Netns) -> None:
    chain, netns = Chain(node, [meshd(node), PORTMAP]), node.pod("web")
    chain.add("web", netns, portMappings=mapping())
    with serving(netns, PORT):
        assert [asked(outside, address, HOST_PORT) for address in NODE] == list(OUTSIDE)
        chain.check("web", netns)
        # The programs and rules of both stand without the agent, and after its next start.
        node.agent.kill()
        assert [asked(outside, address, HOST_PORT) for address in NODE] == list(OUTSIDE)
        node.start()
        assert [asked(outside, address, HOST_PORT) for address in NODE] == list(OUTSIDE)
        chain.delete("web", netns)
        assert [asked(outside, address, HOST_PORT) for address in NODE] == ["", ""]


def test_a_host_port_leads_to_the_pod_from_another_pod_of_the_node(node: CniNode, outside: Netns) -> None:
    del outside
    chain, netns, other = Chain(node, [meshd(node), PORTMAP]), node.pod("web"), node.pod("other")
    chain.add("web", netns, portMappings=mapping())
    chain.add("other", other)
    with serving(netns, PORT):
        assert asked(other, NODE[0], HOST_PORT) != ""


def queues(node: CniNode) -> dict[str, int]:
    """Device -> bytes that its token bucket let through."""
    said = json.loads(run_in(node.netns, "tc", "-s", "-j", "qdisc", "show"))
    return {each["dev"]: each["bytes"] for each in said if each["kind"] == "tbf"}


def test_a_pod_with_a_bandwidth_limit_sends_and_receives_through_it(node: CniNode, outside: Netns) -> None:
    chain, netns = Chain(node, [meshd(node), PORTMAP, BANDWIDTH]), node.pod("slow")
    rate = {
        "ingressRate": 80_000_000,
        "ingressBurst": 8_000_000,
        "egressRate": 80_000_000,
        "egressBurst": 8_000_000,
    }
    addresses = chain.add("slow", netns, bandwidth=rate, portMappings=mapping())
    other = node.pod("other")
    chain.add("other", other)
    data = bytes(200_000)
    with serving(netns, PORT):
        # From outside, from a pod of this node, and to outside: both ways of each go through a bucket.
        before = queues(node)
        assert len(before) == 2
        for client, address, port in ((outside, NODE[0], HOST_PORT), (other, addresses[0], PORT)):
            assert asked(client, address, port, data) != ""
            after = queues(node)
            assert all(after[device] - before[device] >= len(data) for device in before)
            before = after
    chain.check("slow", netns)
    chain.delete("slow", netns)
    node.agent.wait(lambda: len(node.links()) == 1)
    assert queues(node) == {}


def test_tuning_after_it_sets_sysctls_and_mtu_and_the_pod_is_reached(node: CniNode) -> None:
    sysctl = {"net.core.somaxconn": "500", "net.ipv4.conf.eth0.arp_filter": "1"}
    chain = Chain(node, [meshd(node), {"type": "tuning", "sysctl": sysctl, "mtu": 1300}])
    pods = [node.pod(name) for name in ("one", "two")]
    addresses = [chain.add(name, netns) for name, netns in zip(("one", "two"), pods, strict=True)]
    with Netns.open(pods[0]) as pod:
        assert pod.read_sysctl("net/core/somaxconn") == "500"
        assert pod.read_sysctl("net/ipv4/conf/eth0/arp_filter") == "1"
        assert "mtu 1300" in run_in(pod, "ip", "link", "show", "eth0")
    chain.check("one", pods[0])
    assert all(reaches(pods[1], address) for address in addresses[0])
    chain.delete("one", pods[0])


@pytest.fixture
def bridged(node: CniNode, tmp_path: Path) -> Chain:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
        "dataDir": str(tmp_path / "host-local"),
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipam": ipam}
    return Chain(node, [bridge, meshd(node)])


def test_after_bridge_what_nftables_denies_between_two_pods_stays_denied(
    node: CniNode, bridged: Chain
) -> None:
    pods = {name: node.pod(name) for name in ("one", "two", "three")}
    found = {name: bridged.add(name, netns) for name, netns in pods.items()}
    for family, version in (("ip", 0), ("ip6", 1)):
        source, target = found["one"][version], found["two"][version]
        rules = f"""
            add table bridge deny{family}
            add chain bridge deny{family} forward {{ type filter hook forward priority 0; }}
            add rule bridge deny{family} forward {family} saddr {source} {family} daddr {target} drop
        """
        load_rules(node.netns, rules)
    for _ in range(2):
        for version in (0, 1):
            assert not reaches(pods["one"], found["two"][version])
            assert reaches(pods["one"], found["three"][version])
        # And after the agent's next start.
        node.agent.kill()
        node.start()


def test_after_bridge_the_pod_is_checked_and_deleted_as_the_others_made_it(
    node: CniNode, bridged: Chain
) -> None:
    netns = node.pod("one")
    bridged.add("one", netns)
    bridged.check("one", netns)
    assert [name for name in netlink.link_names(node.netns) if name.startswith("mpod")] == []
    bridged.delete("one", netns)
    with Netns.open(netns) as pod:
        assert "eth0" not in netlink.link_names(pod)


def test_after_bridge_services_are_translated_for_pods_that_no_socket_hook_sees(
    node: CniNode, bridged: Chain
) -> None:
    client, server = node.pod("client"), node.pod("server")
    [asker, *_] = bridged.add("client", client)
    [backend, *_] = bridged.add("server", server)
    with serving(server, 8080):
        # This process, whose socket it is, is in no cgroup of the node.
        assert asked(client, VIP, 80) == ""
        node.agent.write("echo", service("echo", VIP), endpoint_slice("echo", backend))
        node.agent.wait(lambda: asked(client, VIP, 80) != "")
        assert asked(client, VIP, 80) == asker
        node.agent.kill()
        assert asked(client, VIP, 80) == asker
