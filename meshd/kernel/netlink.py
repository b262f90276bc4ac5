"""Links, addresses and routes of a network namespace, through pyroute2.

Every function runs on a worker thread inside the namespace: pyroute2 opens its socket lazily and where it is used, and it
brings an event loop of its own, so it must be made, used and closed there. Repeating an addition is no error.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any, TypeVar

from meshd.errors import KernelError
from meshd.kernel.netns import Netns

T = TypeVar("T")
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# linux/if_addr.h: without it an IPv6 address is tentative for a second and cannot be bound to.
_IFA_F_NODAD = 0x02


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a veth pair. ``mac`` None leaves it to the kernel, as ``mtu`` 0 does."""

    netns: Netns
    name: str
    addresses: tuple[Interface, ...] = ()
    mac: str | None = None
    mtu: int = 0


def in_netns(netns: Netns, what: str, function: Callable[[Any], T]) -> T:
    """What ``function`` makes of a pyroute2 IPRoute inside ``netns``; ``what`` names the object in errors.

    Raises:
        KernelError: the kernel refused, with its errno.
    """

    def work() -> T:
        from pyroute2 import IPRoute  # noqa: PLC0415 - 100 ms of imports that meshctl and unit tests do not need

        with _refusals(what, netns), IPRoute() as route:
            return function(route)

    return netns.run(work)


@contextmanager
def _refusals(what: str, netns: Netns) -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        yield
    except NetlinkError as error:
        raise KernelError("configure", f"{what} in {netns.name}", int(error.code)) from error


def create_veth(left: VethEnd, right: VethEnd) -> None:
    """A veth pair, each end made in its own namespace (never seen in another), addressed and up; lo of both is up too.

    Raises:
        KernelError: a name is taken (EEXIST); nothing was made. Refused later: the pair is deleted again.
    """

    def add(route: Any) -> None:
        peer = {"ifname": right.name, "net_ns_fd": right.netns.fd, **_link_options(right)}
        route.link("add", ifname=left.name, kind="veth", peer=peer, **_link_options(left))

    in_netns(left.netns, f"veth {left.name}", add)
    try:
        for end in (left, right):
            set_up(end.netns, end.name, end.addresses)
    except KernelError:
        delete_link(left.netns, left.name)
        raise


def _link_options(end: VethEnd) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if end.mac is not None:
        options["address"] = end.mac
    if end.mtu:
        options["mtu"] = end.mtu
    return options


def create_bridge(
    netns: Netns, name: str, ports: Iterable[str] = (), addresses: Iterable[Interface] = ()
) -> None:
    """A bridge that is up, with the links named ``ports`` as its ports; may be repeated to add more."""

    def add(route: Any) -> None:
        _unless_there(lambda: route.link("add", ifname=name, kind="bridge"))

    in_netns(netns, f"bridge {name}", add)
    set_up(netns, name, addresses)
    for port in ports:
        add_port(netns, name, port)


def add_port(netns: Netns, bridge: str, port: str) -> None:
    """Makes link ``port`` a port of ``bridge`` and sets it up."""

    def add(route: Any) -> None:
        route.link("set", index=_index(route, port), master=_index(route, bridge), state="up")

    in_netns(netns, f"port {port} of bridge {bridge}", add)


def remove_port(netns: Netns, port: str) -> None:
    """Link ``port`` is no bridge's any more."""
    in_netns(netns, f"port {port}", lambda route: route.link("set", index=_index(route, port), master=0))


def set_up(netns: Netns, name: str, addresses: Iterable[Interface] = ()) -> None:
    """Sets link ``name`` and lo up and adds ``addresses``; IPv6 ones are usable at once (no duplicate detection)."""

    def change(route: Any) -> None:
        index = _index(route, name)
        for address in addresses:
            flags = _IFA_F_NODAD if address.version == 6 else 0
            addition = {"address": str(address.ip), "prefixlen": address.network.prefixlen, "flags": flags}
            _unless_there(partial(route.addr, "add", index=index, **addition))
        route.link("set", index=index, state="up")
        if name != "lo":
            route.link("set", index=_index(route, "lo"), state="up")

    in_netns(netns, f"link {name}", change)


def add_route(
    netns: Netns, destination: Network, via: Address | None = None, device: str | None = None
) -> None:
    """A route to ``destination`` through a gateway, a link, or both; an equal one that is there is left."""

    def add(route: Any) -> None:
        options: dict[str, Any] = {"dst": str(destination), "family": 2 if destination.version == 4 else 10}
        if via is not None:
            options["gateway"] = str(via)
        elif destination.version == 4:
            # As `ip route` does: only a destination of link scope may be named as a gateway afterwards.
            options["scope"] = 253
        if device is not None:
            options["oif"] = _index(route, device)
        _unless_there(lambda: route.route("add", **options))

    in_netns(netns, f"route to {destination}", add)


def delete_route(netns: Netns, destination: Network) -> None:
    """Deletes the route to ``destination``; absent is no error."""

    def delete(route: Any) -> None:
        _unless_gone(
            lambda: route.route("del", dst=str(destination), family=2 if destination.version == 4 else 10)
        )

    in_netns(netns, f"route to {destination}", delete)


def delete_link(netns: Netns, name: str) -> None:
    """Deletes a link (with a veth its peer); absent is no error."""

    def delete(route: Any) -> None:
        for index in route.link_lookup(ifname=name):
            _unless_gone(partial(route.link, "del", index=index))

    in_netns(netns, f"link {name}", delete)


def link_index(netns: Netns, name: str) -> int:
    """The ifindex of link ``name`` in ``netns``.

    Raises:
        KernelError: ENODEV where there is none.
    """
    return in_netns(netns, f"link {name}", lambda route: _index(route, name))


def link_names(netns: Netns) -> list[str]:
    """The links of ``netns``, lo included."""
    return in_netns(netns, "links", lambda route: [link.get("ifname") for link in route.get_links()])


def _index(route: Any, name: str) -> int:
    found = route.link_lookup(ifname=name)
    if not found:
        raise KernelError("find", f"link {name}", errno.ENODEV)
    return int(found[0])


def _unless_there(add: Callable[[], object]) -> None:
    _tolerate(add, {errno.EEXIST})


def _unless_gone(delete: Callable[[], object]) -> None:
    _tolerate(delete, {errno.ENODEV, errno.ESRCH, errno.ENOENT})


def _tolerate(change: Callable[[], object], codes: set[int]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        change()
    except NetlinkError as error:
        if error.code not in codes:
            raise
