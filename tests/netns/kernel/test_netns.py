"""Namespaces are entered on worker threads; the thread that asked never moves."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from meshd.errors import KernelError
from meshd.kernel import netlink
from meshd.kernel.netns import Netns, apart, remove_named
from tests.netns.conftest import NetnsPair


def here() -> int:
    with Netns.current() as current:
        return current.inode()


def test_a_function_runs_inside_and_the_caller_stays_outside(netns_pair: NetnsPair) -> None:
    before = here()
    assert netns_pair.client.run(here) == netns_pair.client.inode()
    assert here() == before != netns_pair.client.inode()


def test_what_a_function_raises_inside_reaches_the_caller(netns_pair: NetnsPair) -> None:
    with pytest.raises(ZeroDivisionError):
        netns_pair.client.run(lambda: 1 // 0)


async def test_who_travels_comes_back_also_after_a_failure(netns_pair: NetnsPair) -> None:
    def fail_inside() -> None:
        netns_pair.client.enter()
        assert here() == netns_pair.client.inode()
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await apart(fail_inside)
        assert await apart(here) == here() != netns_pair.client.inode()


def test_a_socket_made_inside_stays_inside(netns_pair: NetnsPair) -> None:
    with (
        netns_pair.server.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
        netns_pair.client.socket(socket.AF_INET6, socket.SOCK_STREAM) as client,
    ):
        listener.bind(("fd77::2", 8080))
        listener.listen()
        client.settimeout(5)
        client.connect(("fd77::2", 8080))
        accepted, peer = listener.accept()
        accepted.close()
        assert peer[0] == "fd77::1"


def test_cookies_tell_namespaces_apart_and_do_not_change(netns_pair: NetnsPair) -> None:
    client, server = netns_pair.client, netns_pair.server
    assert client.cookie() == client.cookie() != server.cookie()


def test_a_named_namespace_is_opened_by_its_path_until_it_is_removed(
    tmp_path: Path, unique_name: str
) -> None:
    path = tmp_path / unique_name
    with Netns.create_named(path) as made, Netns.open(path) as again:
        assert again.inode() == made.inode()
    remove_named(path)
    remove_named(path)
    with pytest.raises(KernelError, match="No such file"):
        Netns.open(path)


def test_a_name_that_is_taken_is_refused(tmp_path: Path, unique_name: str) -> None:
    path = tmp_path / unique_name
    Netns.create_named(path).close()
    try:
        with pytest.raises(KernelError, match=unique_name) as refused:
            Netns.create_named(path)
    finally:
        remove_named(path)
    assert refused.value.errno == errno.EEXIST


def test_sysctls_are_those_of_the_namespace(netns_pair: NetnsPair) -> None:
    outside = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip()
    netns_pair.client.write_sysctl("net/ipv4/ip_default_ttl", "33")
    assert netns_pair.client.read_sysctl("net/ipv4/ip_default_ttl") == "33"
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip() == outside


def test_a_missing_sysctl_is_named(netns_pair: NetnsPair) -> None:
    with pytest.raises(KernelError, match="sysctl net/ipv4/no_such"):
        netns_pair.client.write_sysctl("net/ipv4/no_such", "1")


def test_a_veth_pair_is_never_seen_outside_its_namespaces(netns_pair: NetnsPair) -> None:
    names = (netns_pair.client_device, netns_pair.server_device)
    assert netlink.link_names(netns_pair.client) == ["lo", names[0]]
    with Netns.current() as current:
        assert set(netlink.link_names(current)).isdisjoint(names)


def test_a_taken_link_name_is_refused_and_the_first_pair_stays(netns_pair: NetnsPair) -> None:
    pair = netns_pair
    with pytest.raises(KernelError, match=pair.client_device) as refused:
        netlink.create_veth(
            netlink.VethEnd(pair.client, pair.client_device), netlink.VethEnd(pair.server, "spare")
        )
    assert refused.value.errno == errno.EEXIST
    assert netlink.link_names(pair.server) == ["lo", pair.server_device]


def test_deleting_one_end_deletes_the_pair_and_may_be_repeated(netns_pair: NetnsPair) -> None:
    for _ in range(2):
        netlink.delete_link(netns_pair.client, netns_pair.client_device)
    assert netlink.link_names(netns_pair.server) == ["lo"]


@pytest.mark.parametrize(
    ("address", "gateway"), [("10.99.0.1/32", "10.77.0.1"), ("fd99::1/128", "fd77::1")], ids=["IPv4", "IPv6"]
)
def test_a_route_leads_to_an_address_behind_the_peer(
    netns_pair: NetnsPair, address: str, gateway: str
) -> None:
    client, server, target = netns_pair.client, netns_pair.server, ip_interface(address)
    netlink.set_up(client, "lo", [target])
    for _ in range(2):
        netlink.add_route(server, target.network, via=ip_address(gateway), device=netns_pair.server_device)
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with (
        client.socket(family, socket.SOCK_DGRAM) as receiver,
        server.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((str(target.ip), 9000))
        receiver.settimeout(5)
        sender.sendto(b"hello", (str(target.ip), 9000))
        assert receiver.recv(16) == b"hello"
    netlink.delete_route(server, target.network)
    netlink.delete_route(server, target.network)


def test_a_bridge_carries_packets_between_its_ports(unique_name: str) -> None:
    with Netns.create("fabric") as fabric, Netns.create("left") as left, Netns.create("right") as right:
        for name, end, address in (("l", left, "10.88.0.1/24"), ("r", right, "10.88.0.2/24")):
            inner = netlink.VethEnd(end, "eth0", (ip_interface(address),), mtu=1400)
            netlink.create_veth(inner, netlink.VethEnd(fabric, f"{unique_name}{name}"))
        netlink.create_bridge(
            fabric, "br0", [f"{unique_name}l", f"{unique_name}r"], [ip_interface("10.88.0.254/24")]
        )
        with (
            right.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("10.88.0.2", 9000))
            receiver.settimeout(5)
            sender.sendto(b"hello", ("10.88.0.2", 9000))
            assert receiver.recv(16) == b"hello"
