"""The few rtnetlink requests that a pod's interface needs, encoded by ourselves.

pyroute2 is the library for everything else (`netlink.py`). But a runtime waits for an ADD with a container half made, and
pyroute2 took most of that time: an event loop and a tree of attributes for each of a dozen requests, sent one by one, 5 ms
in all. The kernel takes them in one datagram and is done in 1 ms. So here are the messages, and `route_socket.py` sends
them together.

Pure: bytes out, bytes in. Layouts and numbers are those of linux/rtnetlink.h, if_link.h, if_addr.h and neighbour.h, in the
machine's byte order.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30

IFF_UP, IFF_RUNNING = 1, 0x40
NUD_PERMANENT = 0x80
_IFA_F_NODAD = 0x02
_RTNH_F_ONLINK = 4
_RT_TABLE_MAIN, _RT_TABLE_LOCAL, _RTPROT_BOOT = 254, 255, 3
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
# Of a link, leave the counters out.
_RTEXT_FILTER_SKIP_STATS = 8

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_GROUP = 1, 3, 4, 5, 27
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 20, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_NDA_DST, NDA_LLADDR = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5

HEADER = struct.Struct("=IHHII")
LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBi")
NEIGHBOUR = struct.Struct("=BxxxiHBB")
ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
# How long an address is preferred, and valid, in seconds; when it was made and changed.
_CACHEINFO = struct.Struct("=IIII")
_FOR_EVER = 0xFFFFFFFF
_TYPE_MASK = 0x3FFF


@dataclass(frozen=True, slots=True)
class Message:
    """One request. ``what`` names its object in errors; an answer in ``tolerated`` (numbers of errno) is none."""

    what: str
    kind: int
    flags: int
    body: bytes
    tolerated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VethSide:
    """One end of a pair that is to be made. ``netns`` is a descriptor, None the namespace the request is made in."""

    name: str
    mac: str
    mtu: int
    group: int = 0
    netns: int | None = None
    is_up: bool = False


def attribute(kind: int, content: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(content), kind) + content + bytes(-len(content) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data``, without the flags in their types."""
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += length + -length % 4


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message in a datagram that the kernel sent."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, _, _, _ = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield kind, data[at + HEADER.size : at + length]
        at += length + -length % 4


def number(integer: int) -> bytes:
    """A u32 as the value of an attribute."""
    return struct.pack("=I", integer)


def value(packed: bytes | None) -> int:
    """The u32 of such an attribute; 0 where it is absent."""
    return int(struct.unpack("=I", packed)[0]) if packed else 0


def text(string: str) -> bytes:
    """A string as the value of an attribute."""
    return string.encode() + b"\0"


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``aa:bb:cc:dd:ee:ff``."""
    return bytes.fromhex(mac.replace(":", ""))


def add_veth(near: VethSide, far: VethSide) -> Message:
    """Makes a pair; EEXIST where either name is taken."""
    peer = attribute(_VETH_INFO_PEER, _link_head(0, far) + _link_options(far))
    info = attribute(_IFLA_INFO_KIND, b"veth") + attribute(_IFLA_INFO_DATA, peer)
    body = _link_head(0, near) + _link_options(near) + attribute(_IFLA_LINKINFO, info)
    return Message(f"link {near.name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _link_head(index: int, side: VethSide) -> bytes:
    state = IFF_UP if side.is_up else 0
    return LINK.pack(socket.AF_UNSPEC, 0, index, state, state)


def _link_options(side: VethSide) -> bytes:
    options = attribute(IFLA_IFNAME, text(side.name)) + attribute(IFLA_ADDRESS, mac_bytes(side.mac))
    options += attribute(IFLA_MTU, number(side.mtu))
    if side.group:
        options += attribute(IFLA_GROUP, number(side.group))
    if side.netns is not None:
        options += attribute(_IFLA_NET_NS_FD, number(side.netns))
    return options


def set_up(what: str, index: int) -> Message:
    """Sets a link up."""
    return Message(f"link {what}", RTM_NEWLINK, 0, LINK.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP))


def set_group(name: str, group: int, tolerated: tuple[int, ...] = ()) -> Message:
    """Puts a link into a group."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(IFLA_IFNAME, text(name)) + attribute(IFLA_GROUP, number(group))
    return Message(f"link {name}", RTM_SETLINK, 0, body, tolerated)


def set_alias(name: str, alias: str) -> Message:
    """What people see beside a link's name; at most 255 bytes."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(IFLA_IFNAME, text(name)) + attribute(_IFLA_IFALIAS, alias.encode()[:255])
    return Message(f"link {name}", RTM_SETLINK, 0, body)


def delete_link(name: str, tolerated: tuple[int, ...] = ()) -> Message:
    """Deletes a link, with a veth its peer."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(IFLA_IFNAME, text(name))
    return Message(f"link {name}", RTM_DELLINK, 0, body, tolerated)


def delete_group(group: int, tolerated: tuple[int, ...] = ()) -> Message:
    """Deletes all links of a group at once."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(IFLA_GROUP, number(group))
    return Message(f"links of group {group}", RTM_DELLINK, 0, body, tolerated)


def get_link(name: str, tolerated: tuple[int, ...] = ()) -> Message:
    """Asks for a link by its name."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(IFLA_IFNAME, text(name))
    body += attribute(_IFLA_EXT_MASK, number(_RTEXT_FILTER_SKIP_STATS))
    return Message(f"link {name}", RTM_GETLINK, 0, body, tolerated)


def get_links() -> Message:
    """Asks for all links."""
    body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(_IFLA_EXT_MASK, number(_RTEXT_FILTER_SKIP_STATS))
    return Message("links", RTM_GETLINK, NLM_F_DUMP, body)


def family_of(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def add_address(index: int, address: Address) -> Message:
    """Gives a link ``address`` alone; an IPv6 one is usable at once (no duplicate detection)."""
    body = _address_body(index, address)
    if address.version == 6:
        body += attribute(_IFA_FLAGS, number(_IFA_F_NODAD))
    return Message(f"address {address}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def add_silent_address(index: int, address: Address, protocol: int) -> Message:
    """The same with one that nobody sends from who was not told to; ``protocol``: the number of whose it is.

    IPv4 chooses none of the scope of a host, IPv6 none that is deprecated while there is another (RFC 6724, 5, rule 3).
    """
    if address.version == 6:
        body = _address_body(index, address) + attribute(_IFA_FLAGS, number(_IFA_F_NODAD))
        body += attribute(_IFA_CACHEINFO, _CACHEINFO.pack(0, _FOR_EVER, 0, 0))
    else:
        body = _address_body(index, address, _SCOPE_HOST)
    body += attribute(_IFA_PROTO, bytes([protocol]))
    return Message(f"address {address}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_address(index: int, address: Address) -> Message:
    """Takes ``address`` from a link; that it is not there is no error."""
    return Message(
        f"address {address}", RTM_DELADDR, 0, _address_body(index, address), (errno.EADDRNOTAVAIL,)
    )


def _address_body(index: int, address: Address, scope: int = _SCOPE_UNIVERSE) -> bytes:
    head = ADDRESS.pack(family_of(address), address.max_prefixlen, 0, scope, index)
    return head + attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)


def address_protocol(answer: bytes) -> int:
    """An answer to `get_addresses`: whose it is; 0: nobody said."""
    return dict(attributes(answer[ADDRESS.size :])).get(_IFA_PROTO, b"\0")[0]


def get_addresses(index: int) -> Message:
    """Asks for all addresses of a link."""
    body = ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, index)
    return Message(f"addresses of link {index}", RTM_GETADDR, NLM_F_DUMP, body)


def replace_neighbour(index: int, address: Address, mac: str) -> Message:
    """A permanent neighbour, whatever was known of it before."""
    head = NEIGHBOUR.pack(family_of(address), index, NUD_PERMANENT, 0, 0)
    body = head + attribute(_NDA_DST, address.packed) + attribute(NDA_LLADDR, mac_bytes(mac))
    return Message(f"neighbour {address}", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def get_neighbour(index: int, address: Address, tolerated: tuple[int, ...] = ()) -> Message:
    """Asks for one neighbour."""
    body = NEIGHBOUR.pack(family_of(address), index, 0, 0, 0) + attribute(_NDA_DST, address.packed)
    return Message(f"neighbour {address}", RTM_GETNEIGH, 0, body, tolerated)


def replace_host_route(index: int, address: Address) -> Message:
    """A route to ``address`` alone over a link, instead of any other."""
    scope = _SCOPE_LINK if address.version == 4 else _SCOPE_UNIVERSE
    head = _route_head(address, address.max_prefixlen, scope, 0)
    body = head + attribute(RTA_DST, address.packed) + attribute(RTA_OIF, number(index))
    return Message(f"route to {address}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def replace_default_route(index: int, gateway: Address) -> Message:
    """The default route, through a gateway that is no address of the link's network."""
    head = _route_head(gateway, 0, _SCOPE_UNIVERSE, _RTNH_F_ONLINK)
    body = head + attribute(RTA_GATEWAY, gateway.packed) + attribute(RTA_OIF, number(index))
    return Message(f"default route through {gateway}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def receive(index: int, address: Address) -> Message:
    """Packets to ``address``, which the link has, are for this namespace.

    Of an IPv6 address the kernel says so itself, but from a work queue, milliseconds after it added it
    (addrconf_dad_work, net/ipv6/addrconf.c).
    """
    head = _route_head(address, address.max_prefixlen, _SCOPE_UNIVERSE, 0, _RT_TABLE_LOCAL, _RTN_LOCAL)
    body = head + attribute(RTA_DST, address.packed) + attribute(RTA_OIF, number(index))
    return Message(f"local route to {address}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def _route_head(
    address: Address,
    prefix_length: int,
    scope: int,
    flags: int,
    table: int = _RT_TABLE_MAIN,
    kind: int = _RTN_UNICAST,
) -> bytes:
    return ROUTE.pack(family_of(address), prefix_length, 0, 0, table, _RTPROT_BOOT, scope, kind, flags)


def get_route(address: Address, tolerated: tuple[int, ...] = ()) -> Message:
    """Asks how packets to ``address`` would go."""
    head = ROUTE.pack(family_of(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Message(
        f"route to {address}", RTM_GETROUTE, 0, head + attribute(RTA_DST, address.packed), tolerated
    )


def get_routes(family: int) -> Message:
    """Asks for all routes of a family."""
    return Message("routes", RTM_GETROUTE, NLM_F_DUMP, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
