"""Routes of one owner in the main table, told from everybody else's by their protocol number. Pure, as `rtnetlink.py`."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from meshd.kernel import rtnetlink as rt
from meshd.kernel.rtnetlink import Address, Message

Network = IPv4Network | IPv6Network

# linux/rtnetlink.h.
_TABLE_MAIN, _UNICAST, _UNREACHABLE = 254, 1, 7
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_PREFERRED_SOURCE, _METRICS, _METRIC_MTU = 7, 8, 2


@dataclass(frozen=True, slots=True, order=True)
class OwnedRoute:
    """A route to ``destination``: through ``gateway``, over link ``oif``, or (neither) to nowhere, which the sender is told.

    ``source``: what the node itself sends from. ``mtu`` 0: that of the link.
    """

    destination: Network
    gateway: Address | None = None
    oif: int = 0
    source: Address | None = None
    mtu: int = 0


def add_owned(route: OwnedRoute, protocol: int, *, replace: bool) -> Message:
    """Adds ``route``; ``replace``: instead of ours. Without it EEXIST means that somebody has one."""
    flags = rt.NLM_F_CREATE | (rt.NLM_F_REPLACE if replace else rt.NLM_F_EXCL)
    body = _head(route, protocol) + _destination(route.destination)
    if route.gateway is not None:
        body += rt.attribute(rt.RTA_GATEWAY, route.gateway.packed)
    if route.oif:
        body += rt.attribute(rt.RTA_OIF, rt.number(route.oif))
    if route.source is not None:
        body += rt.attribute(_PREFERRED_SOURCE, route.source.packed)
    if route.mtu:
        body += rt.attribute(_METRICS, rt.attribute(_METRIC_MTU, rt.number(route.mtu)))
    return Message(f"route to {route.destination}", rt.RTM_NEWROUTE, flags, body)


def delete_owned(destination: Network, protocol: int) -> Message:
    """Deletes the route of that owner; absent is no error."""
    head = rt.ROUTE.pack(
        _family(destination), destination.prefixlen, 0, 0, _TABLE_MAIN, protocol, _SCOPE_NOWHERE, 0, 0
    )
    body = head + _destination(destination)
    return Message(f"route to {destination}", rt.RTM_DELROUTE, 0, body, tolerated=(errno.ESRCH,))


def owned_route(answer: bytes, protocol: int) -> OwnedRoute | None:
    """An answer to `rtnetlink.get_routes`; None: it is somebody else's."""
    return main_route(answer) if rt.ROUTE.unpack_from(answer)[5] == protocol else None


def main_route(answer: bytes) -> OwnedRoute | None:
    """An answer to `rtnetlink.get_routes`, whoever made it; None: it is not in the main table."""
    family, length, _, _, table, _, _, kind, _ = rt.ROUTE.unpack_from(answer)
    if table != _TABLE_MAIN:
        return None
    found = dict(rt.attributes(answer[rt.ROUTE.size :]))
    base = found.get(rt.RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    metrics = dict(rt.attributes(found.get(_METRICS, b"")))
    # The kernel names the loopback device in unreachable IPv6 routes.
    oif = 0 if kind == _UNREACHABLE else rt.value(found.get(rt.RTA_OIF))
    return OwnedRoute(
        ip_network((base, length)),
        _address(found.get(rt.RTA_GATEWAY)),
        oif,
        _address(found.get(_PREFERRED_SOURCE)),
        rt.value(metrics.get(_METRIC_MTU)),
    )


def _head(route: OwnedRoute, protocol: int) -> bytes:
    nowhere = route.gateway is None and not route.oif
    over_link = route.gateway is None and not nowhere and route.destination.version == 4
    return rt.ROUTE.pack(
        _family(route.destination),
        route.destination.prefixlen,
        0,
        0,
        _TABLE_MAIN,
        protocol,
        _SCOPE_LINK if over_link else _SCOPE_UNIVERSE,
        _UNREACHABLE if nowhere else _UNICAST,
        0,
    )


def _destination(network: Network) -> bytes:
    return rt.attribute(rt.RTA_DST, network.network_address.packed)


def _family(network: Network) -> int:
    return int(socket.AF_INET if network.version == 4 else socket.AF_INET6)


def _address(packed: bytes | None) -> Address | None:
    return ip_address(packed) if packed else None
