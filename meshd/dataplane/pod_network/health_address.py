"""The node's own address among those of its pods, by which others ask whether it can be reached as its pods are.

It is the network's own address of the first pod CIDR of each family: no pod ever gets that (`model/address_pool.py`),
routers take it for a host's like any other, and in IPv6 it is that of the subnet's router anyway (RFC 4291, 2.6.1). It is on
the loopback device, told from everybody else's by its protocol number (`ip address show dev lo proto 177`), so the host's
stack answers: with an RST, whether an agent runs or not. The node itself sends from it only what is told to be sent from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshd.dataplane.pod_network.routes import PROTOCOL
from meshd.kernel import rtnetlink as rt
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import address_of
from meshd.model import Address
from meshd.model.address import from_ip, to_ip

# include/net/net_namespace.h, LOOPBACK_IFINDEX: in every namespace.
_LOOPBACK = 1


def ensure(route: RouteSocket, addresses: Iterable[Address]) -> int:
    """Makes ``addresses`` all that there are of ours; how many were added or removed. On a worker thread.

    Raises:
        KernelError: the kernel refused.
    """
    wanted = {to_ip(each) for each in addresses}
    there = {to_ip(each) for each in present(route)}
    for each in there - wanted:
        route.exchange([rt.delete_address(_LOOPBACK, each)])
    for each in wanted - there:
        route.exchange([rt.add_silent_address(_LOOPBACK, each, PROTOCOL)])
    return len(there ^ wanted)


def present(route: RouteSocket) -> list[Address]:
    """Those of ours that are there."""
    return [
        from_ip(address)
        for answer in route.exchange([rt.get_addresses(0)])[0]
        if _is_ours(answer) and (address := address_of(answer)) is not None
    ]


def _is_ours(answer: bytes) -> bool:
    return rt.ADDRESS.unpack_from(answer)[4] == _LOOPBACK and rt.address_protocol(answer) == PROTOCOL
