"""A place behind the world's router, and services on it and on pods, for what is translated on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface, ip_network
from typing import Any

from meshd.dataplane import layouts as socket_lb
from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd, add_route, create_veth
from meshd.kernel.netns import Netns
from meshd.kernel.object import BpfObject
from tests.bpf.translation import service_rows
from tests.netns.pod_network.host import Host

FAR = {4: "198.51.100.9", 6: "2001:db8:2::9"}
HOP = {4: "198.51.100.1", 6: "2001:db8:2::1"}
VIP = {4: "10.96.0.10", 6: "fd96::10"}
LENGTH = {4: 24, 6: 64}


@contextmanager
def far(node: Host, mtu: int = 1500) -> Iterator[Netns]:
    """A namespace that the node reaches through the world; on the world's side, packets of ``mtu`` fit at most.

    The limit is the route's, not the link's, so that neither end can see it from its own link.
    """
    with Netns.create("far") as made:
        ends = [
            VethEnd(node.world, f"{node.run_name}r", _interfaces(HOP)),
            VethEnd(made, f"{node.run_name}f", _interfaces(FAR)),
        ]
        create_veth(*ends)
        for family, anywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
            add_route(made, ip_network(anywhere), via=ip_interface(HOP[family]).ip)
            host = str(ip_network(FAR[family]))
            index = netlink.link_index(node.world, ends[0].name)

            # pyroute2 has no types.
            def add(route: Any, host: str = host, index: int = index, family: int = family) -> None:
                number = 2 if family == 4 else 10
                route.route("add", dst=host, oif=index, family=number, metrics={"mtu": mtu})

            netlink.in_netns(node.world, "route to far", add)
        yield made


def _interfaces(addresses: dict[int, str]) -> tuple[netlink.Interface, ...]:
    return tuple(ip_interface(f"{addresses[family]}/{LENGTH[family]}") for family in (4, 6))


def serve(
    node: Host, protocol: int, at: tuple[str, int], *backends: tuple[str, int], external: bool = False
) -> None:
    """Gives a frontend these backends; an ``external`` one is the node's address, or one of the world."""
    with BpfObject.open() as bpf:
        made = socket_lb.layouts(bpf.btf)
    for name, key, value in service_rows(made, protocol, at, backends, external=external):
        node.write(name, key, value)


def known_frontend(node: Host) -> None:
    """The world sends what goes to the service's addresses to the node."""
    for family, at in VIP.items():
        through = ip_interface({4: "192.0.2.1/32", 6: "2001:db8::1/128"}[family]).ip
        add_route(node.world, ip_network(at), via=through)
