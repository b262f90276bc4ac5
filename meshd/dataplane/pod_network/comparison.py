"""What of a pod's interface is not as it was made, as phrases; every question is a targeted one.

A node with 250 pods has so many routes, neighbours and links that reading a table takes longer than making a pod. So the
kernel is asked for the link, each address' route and each neighbour alone; only within the pod, which has a handful, for
tables.

Runs on a worker thread.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from meshd.dataplane.pod_network.links import Ends, ends, gateways, ip
from meshd.errors import KernelError
from meshd.kernel import rtnetlink as rt
from meshd.kernel import rtnetlink_answers as answered
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import Link
from meshd.model import format_address
from meshd.model.attachment import Attachment

_GONE = (errno.ENODEV, errno.ENOENT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH)


def wrong(host: RouteSocket, attachment: Attachment) -> list[str]:
    """In what the kernel differs from what `links.make` made (of a chained one: from the addresses)."""
    try:
        pod = Netns.open(Path(attachment.netns))
    except KernelError as error:
        return [str(error)]
    with pod:
        found = list(_wrong_in_pod(pod, attachment))
    if not attachment.chained:
        found += _wrong_on_host(host, attachment)
    return found


def _wrong_in_pod(pod: Netns, attachment: Attachment) -> Iterator[str]:
    name, pair = attachment.ifname, ends(attachment.key)
    with pod.run(RouteSocket) as inside:
        link = _link(inside, name)
        if link is None:
            yield f"{name} is not in the namespace"
            return
        yield from _wrong_link(link, None if attachment.chained else pair.mac)
        [answers] = inside.exchange([rt.get_addresses(link.index)])
        there = {answered.address_of(each) for each in answers}
        for address in attachment.addresses:
            if ip(address) not in there:
                yield f"{name} has no address {format_address(address)}"
        if not attachment.chained:
            yield from _wrong_gateways(inside, link, pair, attachment)


def _wrong_link(link: Link, mac: str | None) -> Iterator[str]:
    if not link.is_up:
        yield f"{link.name} is down"
    if mac is not None and link.mac != mac:
        yield f"{link.name} has the link address {link.mac}, not {mac}"


def _wrong_gateways(inside: RouteSocket, link: Link, pair: Ends, attachment: Attachment) -> Iterator[str]:
    [answers] = inside.exchange([rt.get_routes(socket.AF_UNSPEC)])
    defaults = {
        (route.gateway, route.oif) for route in map(answered.route_of, answers) if not route.prefix_length
    }
    wanted = gateways(attachment)
    neighbours = inside.exchange([rt.get_neighbour(link.index, each, _GONE) for each in wanted])
    for gateway, answer in zip(wanted, neighbours, strict=True):
        if (gateway, link.index) not in defaults:
            yield f"{link.name} has no default route through {gateway}"
        if pair.host_mac not in map(answered.neighbour_mac, answer):
            yield f"{link.name} has no neighbour {gateway} at {pair.host_mac}"


def _wrong_on_host(host: RouteSocket, attachment: Attachment) -> Iterator[str]:
    pair = ends(attachment.key)
    link = _link(host, pair.host_name)
    if link is None:
        yield f"{pair.host_name} is not on the node"
        return
    yield from _wrong_link(link, pair.host_mac)
    addresses = [ip(each) for each in attachment.addresses]
    routes = host.exchange([rt.get_route(each, _GONE) for each in addresses])
    neighbours = host.exchange([rt.get_neighbour(link.index, each, _GONE) for each in addresses])
    for address, route, neighbour in zip(addresses, routes, neighbours, strict=True):
        if link.index not in {answered.route_of(each).oif for each in route}:
            yield f"the node has no route to {address} through {link.name}"
        if pair.mac not in map(answered.neighbour_mac, neighbour):
            yield f"{link.name} has no neighbour {address} at {pair.mac}"


def _link(route: RouteSocket, name: str) -> Link | None:
    [answers] = route.exchange([rt.get_link(name, _GONE)])
    return answered.link_of(answers[0]) if answers else None
