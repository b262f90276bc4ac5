"""What the kernel answers to the questions of `rtnetlink.py`, decoded as far as somebody asks for it. Pure."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address

from meshd.kernel import rtnetlink as rt
from meshd.kernel.rtnetlink import Address, attributes

# linux/if_link.h, and the place of one setting among the 32-bit words of a device (linux/ipv6.h).
_IFLA_AF_SPEC, _IFLA_INET6_CONF = 26, 2
_DEVCONF_DISABLE_IPV6 = 26


@dataclass(frozen=True, slots=True)
class Link:
    """A device. ``peer``: the ifindex of a veth's other end, in whatever namespace that is; 0 where there is none.

    ``is_running``: it is up, so is its other end, and the kernel has noticed: what is sent on it leaves.
    """

    index: int
    name: str
    is_up: bool
    is_running: bool
    mac: str
    mtu: int
    group: int
    peer: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route; ``prefix_length`` 0 is a default route."""

    prefix_length: int
    destination: Address | None
    gateway: Address | None
    oif: int


def link_of(answer: bytes) -> Link:
    """An answer to `rtnetlink.get_link`."""
    _, _, index, flags, _ = rt.LINK.unpack_from(answer)
    found = dict(attributes(answer[rt.LINK.size :]))
    return Link(
        index,
        found.get(rt.IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        bool(flags & rt.IFF_UP),
        bool(flags & rt.IFF_RUNNING),
        found.get(rt.IFLA_ADDRESS, b"").hex(":"),
        rt.value(found.get(rt.IFLA_MTU)),
        rt.value(found.get(rt.IFLA_GROUP)),
        rt.value(found.get(rt.IFLA_LINK)),
    )


def index_of(answer: bytes) -> int:
    """The ifindex in an answer to `rtnetlink.get_link`."""
    return int(rt.LINK.unpack_from(answer)[2])


def is_without_ipv6(answer: bytes) -> bool:
    """Whether the device of an answer to `rtnetlink.get_link` has disable_ipv6 set; not where the kernel has no IPv6."""
    found = answer[rt.LINK.size :]
    for kind in (_IFLA_AF_SPEC, socket.AF_INET6, _IFLA_INET6_CONF):
        found = next((each for named, each in attributes(found) if named == kind), b"")
    return rt.value(found[_DEVCONF_DISABLE_IPV6 * 4 :][:4]) != 0


def group_of(answer: bytes) -> int:
    """The group in an answer to `rtnetlink.get_link`, without a look at the rest, which is ten times as long."""
    found = attributes(answer[rt.LINK.size :])
    return next((rt.value(each) for kind, each in found if kind == rt.IFLA_GROUP), 0)


def route_of(answer: bytes) -> Route:
    """An answer to `rtnetlink.get_route` or `rtnetlink.get_routes`."""
    found = dict(attributes(answer[rt.ROUTE.size :]))
    return Route(
        rt.ROUTE.unpack_from(answer)[1],
        _address(found.get(rt.RTA_DST)),
        _address(found.get(rt.RTA_GATEWAY)),
        rt.value(found.get(rt.RTA_OIF)),
    )


def address_of(answer: bytes) -> Address | None:
    """An answer to `rtnetlink.get_addresses`: the link's own address, also where it has a peer's beside it."""
    found = dict(attributes(answer[rt.ADDRESS.size :]))
    return _address(found.get(rt.IFA_LOCAL, found.get(rt.IFA_ADDRESS)))


def neighbour_mac(answer: bytes) -> str:
    """An answer to `rtnetlink.get_neighbour`; empty where its link address is not known."""
    return dict(attributes(answer[rt.NEIGHBOUR.size :])).get(rt.NDA_LLADDR, b"").hex(":")


def _address(packed: bytes | None) -> Address | None:
    return ip_address(packed) if packed else None
