"""Which devices lead out of the node, with which addresses: looked up now, and again when the kernel tells of a change.

An uplink has a default route or an address under which other nodes reach this one, or the configuration names it. Links of
pods come and go all the time and are none of it, so what the kernel tells of them wakes nobody.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshd.dataplane.devices import Found, Uplink
from meshd.dataplane.pod_network.links import PODS_GROUPS
from meshd.dataplane.pod_network.routes import PROTOCOL
from meshd.kernel import rtnetlink as rt
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import Link, group_of, link_of, route_of
from meshd.model import Address, is_ipv4, parse_address

# linux/if_addr.h, linux/rtnetlink.h: addresses that are not to be sent from, and those of a wider scope than a link.
_IFA_FLAGS = 8
_SECONDARY, _DEPRECATED, _TENTATIVE, _DADFAILED = 0x01, 0x20, 0x40, 0x08
_SCOPE_LINK = 253
_TABLE_MAIN = 254
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, IPv4 addresses and routes, IPv6 addresses and routes
_RECEIVE_BYTES = 1 << 20
# What the kernel tells comes in bursts, a new pod's in fourteen parts, and each would wake us by itself.
_GATHER_S = 0.01


class Held(NamedTuple):
    """An address of a device; ``is_primary``: packets may leave with it."""

    ifindex: int
    address: Address
    is_primary: bool


@dataclass(frozen=True, slots=True)
class Looked:
    """The kernel's answers: links by ifindex, addresses in its order, ifindexes of default routes in its order."""

    links: Mapping[int, Link]
    held: Sequence[Held]
    defaults: Sequence[int]


def look(route: RouteSocket) -> Looked:
    """Asks the kernel. On a worker thread.

    Raises:
        KernelError: it refused.
    """
    links = {each.index: each for each in map(link_of, route.exchange([rt.get_links()])[0])}
    held = [found for answer in route.exchange([rt.get_addresses(0)])[0] if (found := _held(answer))]
    defaults: dict[int, None] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for answer in route.exchange([rt.get_routes(family)])[0]:
            if _is_default(answer):
                defaults[route_of(answer).oif] = None
    return Looked(links, held, [index for index in defaults if index in links])


def found(
    looked: Looked, named: Collection[str], node_addresses: Sequence[Address], tunnel: str = ""
) -> Found:
    """What follows from the kernel's answers. ``named``: devices that the configuration calls uplinks; ``tunnel``: name of
    the tunnel device, which is none. Pure.

    Where ``node_addresses`` does not name one of a family, the node's own is the one of the first default route's device.
    """
    ours = [each for each in looked.held if not _is_pods(looked.links.get(each.ifindex))]
    of_node = {each.ifindex for each in ours if each.address in node_addresses}
    by_name = {index for index, link in looked.links.items() if link.name in named}
    indexes = dict.fromkeys([*looked.defaults, *sorted(of_node | by_name)])
    leading = [looked.links[index] for index in indexes if index in looked.links]
    leading = [link for link in leading if link.name not in {"lo", tunnel} and not _is_pods(link)]
    uplinks = tuple(_uplink(link, ours) for link in leading if _is_ethernet(link))
    return Found(
        uplinks,
        frozenset(each.address for each in ours),
        _own(node_addresses, [each.v4 for each in uplinks], v4=True),
        _own(node_addresses, [each.v6 for each in uplinks], v4=False),
        next((index for index, link in looked.links.items() if tunnel and link.name == tunnel), 0),
        tuple(link.name for link in leading if not _is_ethernet(link)),
    )


def _is_ethernet(link: Link) -> bool:
    """The programs read Ethernet headers, which devices of other kinds (wireguard, tun, ipip) do not have."""
    return len(link.mac) == len("00:00:00:00:00:00")


def _is_pods(link: Link | None) -> bool:
    return link is not None and link.group in PODS_GROUPS


def _uplink(link: Link, held: Iterable[Held]) -> Uplink:
    usable = [each.address for each in held if each.ifindex == link.index and each.is_primary]
    v4 = next((address for address in usable if is_ipv4(address)), None)
    v6 = next((address for address in usable if not is_ipv4(address)), None)
    return Uplink(link.index, link.name, v4, v6, link.mtu)


def _own(
    node_addresses: Iterable[Address], fallback: Iterable[Address | None], *, v4: bool
) -> Address | None:
    named = [each for each in node_addresses if is_ipv4(each) is v4]
    return next(iter(named), None) or next((each for each in fallback if each is not None), None)


def _held(answer: bytes) -> Held | None:
    family, _, flags, scope, index = rt.ADDRESS.unpack_from(answer)
    attributes = dict(rt.attributes(answer[rt.ADDRESS.size :]))
    packed = attributes.get(rt.IFA_LOCAL, attributes.get(rt.IFA_ADDRESS))
    # Our own one (health_address.py) has the scope of a host, so that nobody sends from it unasked.
    if packed is None or (scope >= _SCOPE_LINK and rt.address_protocol(answer) != PROTOCOL):
        return None
    flags |= rt.value(attributes.get(_IFA_FLAGS))
    is_primary = scope < _SCOPE_LINK and not flags & (_SECONDARY | _DEPRECATED | _TENTATIVE | _DADFAILED)
    # Of IPv6 the same bit marks addresses of privacy extensions, which change.
    return Held(index, parse_address(socket.inet_ntop(family, packed)), is_primary)


def _is_default(answer: bytes) -> bool:
    _, length, _, _, table, _, _, kind, _ = rt.ROUTE.unpack_from(answer)
    return length == 0 and table == _TABLE_MAIN and kind == 1 and bool(route_of(answer).oif)


class Watch:
    """Made in the node's namespace. ``changed`` is set when something may have changed that a look would show;
    ``rerouted`` is called when packets may now leave the node elsewhere."""

    def __init__(self, changed: asyncio.Event, rerouted: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._rerouted = rerouted
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._socket.bind((0, _GROUPS))
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Hears nothing any more."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._socket, self._gather)

    def _gather(self) -> None:
        self._loop.remove_reader(self._socket)
        self._later = self._loop.call_later(_GATHER_S, self._read)

    def _read(self) -> None:
        self._listen()
        rerouted = False
        try:
            while True:
                data = self._socket.recv(1 << 16)
                for kind, body in rt.messages(data):
                    rerouted |= concerns_routes(kind, body)
                    if concerns_uplinks(kind, body):
                        self._changed.set()
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: some of what the kernel told was lost
            self._changed.set()
            rerouted = True
        if rerouted:
            self._rerouted()


def concerns_uplinks(kind: int, body: bytes) -> bool:
    """Whether what the kernel told may change what leads out of the node: nothing that is a pod's does."""
    if kind in {rt.RTM_NEWLINK, rt.RTM_DELLINK}:
        # A node with many pods tells of little else.
        return group_of(body) not in PODS_GROUPS
    if kind in {rt.RTM_NEWADDR, rt.RTM_DELADDR}:
        return int(rt.ADDRESS.unpack_from(body)[3]) < _SCOPE_LINK
    if kind in {rt.RTM_NEWROUTE, rt.RTM_DELROUTE}:
        return int(rt.ROUTE.unpack_from(body)[1]) == 0
    return False


def concerns_routes(kind: int, body: bytes) -> bool:
    """Whether packets may leave the node elsewhere than before. Of a link that goes down no route of IPv4 is told."""
    return kind in {rt.RTM_NEWROUTE, rt.RTM_DELROUTE} or concerns_uplinks(kind, body)
