"""The device that carries pods' packets to nodes with which this one shares no link, and what it costs in MTU.

One device serves all nodes: the programs on it give every packet its tunnel key. The host's own packets take it, too, by
the routes of `routes.py`.
"""

from __future__ import annotations

import errno

import structlog

from meshd.dataplane.devices import TUNNEL_DEVICE, Found
from meshd.kernel import rtnetlink as rt
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_vxlan import VxlanDevice, add_vxlan, set_vxlan, vxlan_of

log = structlog.get_logger(__name__)


# Outer IP header, UDP, vxlan, and the inner Ethernet header.
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}
DEFAULT_MTU = 1500


def overhead(found: Found) -> int:
    """By how much packets in the tunnel must be smaller than those of the uplinks."""
    return OVERHEAD[6 if found.looked and found.node_v4 is None else 4]


def wanted(found: Found, port: int) -> VxlanDevice:
    """The device as it should be."""
    underlay = min((each.mtu for each in found.uplinks), default=DEFAULT_MTU)
    return VxlanDevice(TUNNEL_DEVICE, port, underlay - overhead(found))


def ensure(route: RouteSocket, device: VxlanDevice) -> int:
    """The ifindex of ``device``, which is there as it should be from here on. On a worker thread.

    Raises:
        KernelError: refused; with EADDRINUSE somebody else has a tunnel on that port.
    """
    there = look(route, device.name)
    if there is not None and (there.port, there.is_external) != (device.port, device.is_external):
        log.warning("tunnel device of another kind replaced", device=device.name, port=there.port)
        delete(route, device.name)
        there = None
    if there is None:
        route.exchange([add_vxlan(device)])
        log.info("tunnel device made", device=device.name, port=device.port, mtu=device.mtu)
        there = look(route, device.name)
        return there.index if there is not None else 0
    if (there.mtu, there.is_up) != (device.mtu, True):
        route.exchange([set_vxlan(VxlanDevice(device.name, device.port, device.mtu, there.index))])
    return there.index


def look(route: RouteSocket, name: str = TUNNEL_DEVICE) -> VxlanDevice | None:
    """The device of that name, if it is one."""
    (answers,) = route.exchange([rt.get_link(name, (errno.ENODEV,))])
    return vxlan_of(answers[0]) if answers else None


def delete(route: RouteSocket, name: str = TUNNEL_DEVICE) -> bool:
    """Whether there was such a device, which is gone now."""
    if look(route, name) is None:
        return False
    route.exchange([rt.delete_link(name, (errno.ENODEV,))])
    return True
