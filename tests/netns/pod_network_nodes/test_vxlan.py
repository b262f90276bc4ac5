"""Pods of nodes that do not want, or cannot have, plain routing between them: their packets take the tunnel."""

from __future__ import annotations

import hashlib
import socket
import threading
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from tests.netns.cni.node import reaches
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode, shown_here
from tests.patience import patience

pytestmark = pytest.mark.needs("etcd")

DEVICE = "meshd-vxlan"


def tunnelled(*nodes: FabricNode) -> None:
    """Returns when every node has a tunnel to every other, and the programs on it."""
    for node in nodes:
        others = {f"{each.cluster}/n{each.number}" for each in nodes} - {f"{node.cluster}/n{node.number}"}
        node.agent.wait(lambda node=node, others=others: node.knows(*others))  # type: ignore[misc] # bound defaults
        node.agent.wait(lambda node=node: ready(node))  # type: ignore[misc] # the same


def ready(node: FabricNode) -> bool:
    said = node.agent.status()
    on = {program.name: program.attached_to for program in said.programs} if said is not None else {}
    return DEVICE in on.get("pod_network_from_tunnel", "") and all(
        shown.routing == "vxlan" for shown in node.nodes().values()
    )


def started(*nodes: FabricNode) -> None:
    for node in nodes:
        node.start()
    tunnelled(*nodes)


def received(server: Path, address: str, client: Path, content: bytes) -> str:
    """The digest of what a pod receives that another sends it over TCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        Netns.open(server) as there,
        Netns.open(client) as here,
        there.socket(family, socket.SOCK_STREAM) as listening,
    ):
        listening.bind((address, 8080))
        listening.listen()
        listening.settimeout(patience(10))
        with here.socket(family, socket.SOCK_STREAM) as sending:
            sending.settimeout(patience(10))
            sending.connect((address, 8080))
            connection, _ = listening.accept()
            sender = threading.Thread(target=send_all, args=(sending, content))
            sender.start()
            with connection:
                connection.settimeout(patience(10))
                digest = hashlib.sha256()
                while part := connection.recv(65536):
                    digest.update(part)
            sender.join()
    return digest.hexdigest()


def send_all(sending: socket.socket, content: bytes) -> None:
    sending.sendall(content)
    sending.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("cluster", ["cm-1", "cm-2"])
def test_pods_reach_each_other_and_are_reached_by_hosts_in_a_tunnel(fabric: Fabric, cluster: str) -> None:
    if cluster != "cm-1":
        fabric.join("cm-1", cluster)
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2, cluster)
    started(first, second)
    assert first.destinations() == {
        "10.77.2.0/120": "TUNNEL",
        "fd77:0:0:2::/64": "TUNNEL",
        f"{second.v4}/128": "NODE",
        f"{second.v6}/128": "NODE",
        "10.77.2.0/128": "NODE",
        "fd77:0:0:2::/128": "NODE",
    }
    here, _ = first.add("here")
    _, answer = second.add("there")
    assert first.routes()["10.77.2.0/24"]["dev"] == DEVICE
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    assert [reaches(first.netns, address) for address in answer.addresses] == [True, True]
    assert [reaches(here, second.v4), reaches(here, second.v6)] == [True, True]


def test_data_of_any_size_arrives_whole_because_pods_leave_room_for_the_tunnel(fabric: Fabric) -> None:
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2, routing="vxlan")
    started(first, second)
    here, mine = first.add("here")
    there, answer = second.add("there")
    with Netns.open(here) as pod:
        (link,) = pod.run(lambda: shown_here("link", "show", "dev", "eth0"))
    assert link["mtu"] == 1450
    content = bytes(range(256)) * 8192
    wanted = hashlib.sha256(content).hexdigest()
    assert [received(there, address, here, content) for address in answer.addresses] == [wanted, wanted]
    assert [received(here, address, there, content) for address in mine.addresses] == [wanted, wanted]


def test_nodes_that_share_no_link_find_the_tunnel_by_themselves(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    third = fabric.node(3)
    # Its link is another one: between it and the others there is only the router.
    netlink.delete_link(third.netns, f"{third.name}u")
    near = VethEnd(third.netns, f"{third.name}u", (ip_interface("198.51.100.3/24"),))
    netlink.create_veth(near, VethEnd(fabric.netns, f"{third.name}p", (ip_interface("198.51.100.254/24"),)))
    netlink.add_route(third.netns, ip_network("0.0.0.0/0"), ip_interface("198.51.100.254/24").ip)
    fabric.netns.write_sysctl("net/ipv4/ip_forward", "1")
    for node in (first, second, third):
        node.start()
    for node, others in ((first, "23"), (second, "13"), (third, "12")):
        node.agent.wait(lambda node=node, others=others: node.knows(*(f"cm-1/n{each}" for each in others)))  # type: ignore[misc] # bound defaults
        node.agent.wait(
            lambda node=node: (
                {name: shown.routing for name, shown in node.nodes().items()}  # type: ignore[misc] # the same
                == {
                    f"cm-1/n{each.number}": "vxlan" if third in {each, node} else "native"
                    for each in (first, second, third)
                    if each is not node
                }
            )
        )
    first.agent.wait(lambda: first.routes().get("10.77.3.0/24", {}).get("dev") == DEVICE)
    third.agent.wait(lambda: third.routes().get("10.77.1.0/24", {}).get("dev") == DEVICE)
    first.agent.wait(lambda: is_attached(first))
    third.agent.wait(lambda: is_attached(third))
    here, _ = first.add("here")
    _, near_by = second.add("near")
    _, far_away = third.add("far")
    assert [reaches(here, address) for address in near_by.addresses] == [True, True]
    # IPv6 takes the tunnel between the IPv4 addresses.
    assert [reaches(here, address) for address in far_away.addresses] == [True, True]


def is_attached(node: FabricNode) -> bool:
    said = node.agent.status()
    assert said is not None
    return any(
        program.name == "pod_network_from_tunnel" and DEVICE in program.attached_to
        for program in said.programs
    )


def test_a_tunnel_between_nodes_that_share_ipv6_only(fabric: Fabric) -> None:
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2)
    for node in (first, second):
        # IPv4 leads to etcd only, over a link without a default route.
        node.run_ip("address", "flush", "dev", f"{node.name}u", "scope", "global")
        node.run_ip("address", "add", f"{node.v6}/64", "dev", f"{node.name}u", "nodad")
        node.run_ip("-6", "route", "replace", "default", "via", "fd78::fe")
        side = VethEnd(node.netns, f"{node.name}m", (ip_interface(f"{node.v4}/24"),))
        netlink.create_veth(side, VethEnd(fabric.netns, f"{node.name}n"))
        netlink.add_port(fabric.netns, fabric.bridge, f"{node.name}n")
    started(first, second)
    assert [list(shown.addresses) for shown in first.nodes().values()] == [[second.v6]]
    here, mine = first.add("here")
    there, answer = second.add("there")
    with Netns.open(here) as pod:
        (link,) = pod.run(lambda: shown_here("link", "show", "dev", "eth0"))
    assert link["mtu"] == 1430
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    content = bytes(range(256)) * 4096
    wanted = hashlib.sha256(content).hexdigest()
    assert [received(there, address, here, content) for address in answer.addresses] == [wanted, wanted]
    assert [received(here, address, there, content) for address in mine.addresses] == [wanted, wanted]


def test_the_tunnel_outlives_the_agents_and_is_made_anew_when_somebody_deletes_it(fabric: Fabric) -> None:
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2)
    started(first, second)
    here, _ = first.add("here")
    _, answer = second.add("there")
    first.agent.kill()
    second.agent.kill()
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    started(first, second)
    first.run_ip("link", "del", DEVICE)
    first.agent.wait(lambda: DEVICE in netlink.link_names(first.netns))
    first.agent.wait(lambda: first.routes().get("10.77.2.0/24", {}).get("dev") == DEVICE)
    first.agent.wait(lambda: all(reaches(here, address) for address in answer.addresses))


@pytest.mark.needs("tcx")
def test_a_pod_whose_packets_keep_to_the_hosts_stack_is_reached_through_the_tunnel_as_well(
    fabric: Fabric,
) -> None:
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2)
    started(first, second)
    here, _ = first.add("here")
    limit = {"ingressRate": 10**9, "ingressBurst": 10**9, "egressRate": 10**9, "egressBurst": 10**9}
    limited, answer = second.add("limited", runtimeConfig={"bandwidth": limit})
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    assert [reaches(first.netns, address) for address in answer.addresses] == [True, True]
    assert [reaches(limited, first.v4), reaches(limited, first.v6)] == [True, True]
