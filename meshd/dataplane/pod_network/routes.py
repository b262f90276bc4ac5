"""Routes of the host to pods of other nodes, so that by address the stack can always deliver what no program carries.

They are told from everybody else's by their protocol number (`ip route show proto 177`). One that somebody else has made to
the same destination stands: whoever did so means it. It is named if it leads elsewhere than ours would.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from meshd.dataplane.devices import Found
from meshd.dataplane.reach import Reached, Via
from meshd.errors import KernelError
from meshd.kernel import rtnetlink as rt
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_routes import OwnedRoute, add_owned, delete_owned, main_route, owned_route
from meshd.model import Node, format_address
from meshd.model.address import to_ip

Network = IPv4Network | IPv6Network

PROTOCOL = 177


@dataclass(slots=True)
class Outcome:
    """``changed``: routes added, replaced or deleted. ``refused``: destination -> why there is none of ours."""

    changed: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def wanted(
    reached: Iterable[tuple[Node, Reached]],
    pod_cidrs: Iterable[str],
    found: Found,
    tunnel_ifindex: int,
    tunnel_mtu: int,
) -> dict[Network, OwnedRoute]:
    """Destination -> route. Pure.

    Of this node's own ``pod_cidrs`` what no pod has leads nowhere: the default route would send it round in circles.
    """
    routes = {ip_network(cidr): OwnedRoute(ip_network(cidr)) for cidr in pod_cidrs}
    sources = {4: found.node_v4, 6: found.node_v6}
    for node, how in reached:
        for network in _pods(node):
            if how.via is Via.TUNNEL and tunnel_ifindex:
                source = sources[network.version]
                source_ip = to_ip(source) if source is not None else None
                routes[network] = OwnedRoute(network, None, tunnel_ifindex, source_ip, tunnel_mtu)
            gateway = how.gateway(v4=network.version == 4)
            if how.via is Via.NATIVE and gateway is not None:
                routes[network] = OwnedRoute(network, to_ip(gateway))
    return routes


def apply(
    route: RouteSocket,
    routes: Mapping[Network, OwnedRoute],
    *,
    complete: bool = True,
    had: Collection[Network] = (),
) -> Outcome:
    """Makes ``routes`` all that there are of ours. On a worker thread.

    While they are not ``complete``, of those that are not named only the ones that we ``had`` go: what else an earlier run
    left may be wanted yet.

    Raises:
        KernelError: the kernel's routes cannot be read, or one of ours cannot be deleted.
    """
    answers = _all(route)
    there = _ours(answers)
    outcome = Outcome()
    gone = [network for network in there if network not in routes and (complete or network in had)]
    route.exchange([delete_owned(network, PROTOCOL) for network in gone])
    outcome.changed = len(gone)
    for network, each in routes.items():
        known = there.get(network)
        if known is not None and _is_same(known, each):
            continue
        try:
            route.exchange([add_owned(each, PROTOCOL, replace=known is not None)])
            outcome.changed += 1
        except KernelError as error:
            if error.errno != errno.EEXIST:
                outcome.refused[str(network)] = str(error)
            elif not _leads_there(answers, each):
                outcome.refused[str(network)] = "somebody else has a route there, which stands"
    return outcome


def present(route: RouteSocket) -> dict[Network, OwnedRoute]:
    """The routes of ours that are there."""
    return _ours(_all(route))


def remove_all(route: RouteSocket) -> int:
    """How many routes of ours there were; none is left."""
    return apply(route, {}).changed


def _all(route: RouteSocket) -> list[bytes]:
    families = socket.AF_INET, socket.AF_INET6
    return [answer for family in families for answer in route.exchange([rt.get_routes(family)])[0]]


def _ours(answers: Iterable[bytes]) -> dict[Network, OwnedRoute]:
    owned = (owned_route(answer, PROTOCOL) for answer in answers)
    return {each.destination: each for each in owned if each is not None}


def _leads_there(answers: Iterable[bytes], wanted: OwnedRoute) -> bool:
    """Whether a route of somebody else goes the way that ``wanted`` would."""
    routes = (main_route(answer) for answer in answers)
    return any(
        each is not None
        and each.destination == wanted.destination
        and each.gateway == wanted.gateway
        and (wanted.gateway is not None or each.oif == wanted.oif)
        for each in routes
    )


def _pods(node: Node) -> Iterator[Network]:
    for cidr in node.pod_cidrs:
        yield ip_network(cidr)
    for address in node.extra:
        yield ip_network(format_address(address))


def _is_same(known: OwnedRoute, each: OwnedRoute) -> bool:
    # The kernel says over which link a gateway is; we leave that to it.
    oif = each.oif or (known.oif if each.gateway is not None else 0)
    return known == OwnedRoute(each.destination, each.gateway, oif, each.source, each.mtu)
