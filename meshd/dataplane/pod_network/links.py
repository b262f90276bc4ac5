"""A pod's veth pair in the kernel: names, addresses, routes and neighbours on both sides, and what of it is there.

The pod routes everything to a gateway that nobody has (169.254.1.1, fe80::1), whose link address is a permanent neighbour:
the host's end. The host has a route and a permanent neighbour for each of the pod's addresses. So no packet waits for ARP
or neighbour discovery, no subnet is shared, and pods, host and natively routed nodes reach each other by address through
the host's stack alone.

Every function runs on a worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshd.errors import KernelError
from meshd.kernel.netlink import in_netns
from meshd.kernel.netns import Netns
from meshd.model import Address, format_address, is_ipv4
from meshd.model.attachment import Attachment, AttachmentKey

GATEWAYS: Mapping[int, str] = {4: "169.254.1.1", 6: "fe80::1"}

# Link groups are the namespace's own: `ip link show group 7701`.
ATTACHED_GROUP = 7701
DOOMED_GROUP = 7702

# linux/if.h, linux/neighbour.h, linux/rtnetlink.h, linux/if_addr.h.
_IFF_UP = 1
_NUD_PERMANENT = 0x80
_RTNH_F_ONLINK = 4
_SCOPE_LINK = 253
_NODAD = 0x02


@dataclass(frozen=True, slots=True)
class Ends:
    """Names and link addresses of both ends, which follow from container and interface alone."""

    host_name: str
    host_mac: str
    mac: str


def ends(key: AttachmentKey) -> Ends:
    """The ends of the pair of ``key``: a host name of 15 characters, and link addresses of the local, not global kind."""
    digest = hashlib.sha256("/".join(key).encode()).digest()
    # udev leaves a link address alone that was given when the link was made.
    macs = (":".join(f"{byte:02x}" for byte in (0x0A, *digest[start : start + 5])) for start in (6, 11))
    return Ends(f"mpod{digest.hex()[:11]}", *macs)


def family(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return int(socket.AF_INET if is_ipv4(address) else socket.AF_INET6)


def version(address: Address) -> int:
    """4 or 6."""
    return 4 if is_ipv4(address) else 6


def host_prefix(address: Address) -> str:
    """The destination that is ``address`` alone."""
    return f"{format_address(address)}/{32 if is_ipv4(address) else 128}"


def make(host: Netns, attachment: Attachment, mtu: int) -> None:
    """Makes the pair and all that belongs to it; what an earlier attempt left is replaced.

    Raises:
        KernelError: refused; nothing is left. ENOENT: the pod's namespace is not there.
    """
    pair = ends(attachment.key)
    with Netns.open(Path(attachment.netns)) as pod:
        what = f"link {pair.host_name}"
        in_netns(host, what, lambda route: _make_pair(route, pair, attachment, pod, mtu))
        try:
            in_netns(pod, f"link {attachment.ifname}", lambda route: _configure_pod(route, pair, attachment))
        except (KernelError, OSError):
            in_netns(host, what, lambda route: _delete(route, pair.host_name))
            raise


def _make_pair(route: Any, pair: Ends, attachment: Attachment, pod: Netns, mtu: int) -> None:
    """Any: pyroute2 has no types."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as in meshd.kernel.netlink

    peer = {"ifname": attachment.ifname, "net_ns_fd": pod.fd, "address": pair.mac, "mtu": mtu}
    ours = {"kind": "veth", "address": pair.host_mac, "mtu": mtu, "group": ATTACHED_GROUP, "state": "up"}

    def add() -> None:
        route.link("add", ifname=pair.host_name, peer=peer, **ours)

    if not _done(add, errno.EEXIST):
        # Of this container and interface there is a pair already: with the host's end the pod's goes too.
        _delete(route, pair.host_name)
        add()
    try:
        _configure_host(route, pair, attachment)
    except (NetlinkError, OSError):
        _delete(route, pair.host_name)
        raise


def _configure_host(route: Any, pair: Ends, attachment: Attachment) -> None:
    index = socket.if_nametoindex(pair.host_name)
    for address in attachment.addresses:
        text = format_address(address)
        neighbour = {"dst": text, "lladdr": pair.mac, "ifindex": index, "state": _NUD_PERMANENT}
        route.neigh("replace", family=family(address), **neighbour)
        scope = {"scope": _SCOPE_LINK} if is_ipv4(address) else {}
        route.route("replace", family=family(address), dst=host_prefix(address), oif=index, **scope)


def _configure_pod(route: Any, pair: Ends, attachment: Attachment) -> None:
    index = socket.if_nametoindex(attachment.ifname)
    if any(not is_ipv4(address) for address in attachment.addresses):
        enable_ipv6(attachment.ifname)
    route.link("set", index=index, state="up")
    for address in attachment.addresses:
        flags = 0 if is_ipv4(address) else _NODAD
        prefix = 32 if is_ipv4(address) else 128
        options = {"address": format_address(address), "prefixlen": prefix, "flags": flags}
        route.addr("replace", family=family(address), index=index, **options)
    for each in {version(address): address for address in attachment.addresses}.values():
        gateway = GATEWAYS[version(each)]
        neighbour = {"dst": gateway, "lladdr": pair.host_mac, "ifindex": index, "state": _NUD_PERMANENT}
        route.neigh("replace", family=family(each), **neighbour)
        route.route(
            "replace", family=family(each), dst="default", gateway=gateway, oif=index, flags=_RTNH_F_ONLINK
        )


def enable_ipv6(ifname: str) -> None:
    """Runtimes switch IPv6 off in namespaces whose plugins they do not expect to give such an address."""
    path = Path("/proc/sys/net/ipv6/conf", ifname, "disable_ipv6")
    if path.exists() and path.read_text().strip() == "1":
        path.write_text("0")


def _delete(route: Any, name: str) -> None:
    _done(lambda: route.link("del", ifname=name), errno.ENODEV)


def _done(change: Callable[[], object], tolerated: int) -> bool:
    """Whether ``change`` was made; False: the kernel answered ``tolerated``."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as in meshd.kernel.netlink

    try:
        change()
    except NetlinkError as error:
        if error.code != tolerated:
            raise
        return False
    return True


def doom(host: Netns, names: list[str]) -> None:
    """Deletes links of pods by name, all at once: one by one, each would wait for all readers of the kernel's tables.

    What a sweep that was cut short had doomed goes too.
    """

    def delete(route: Any) -> None:
        for name in names:
            _done(lambda name=name: route.link("set", ifname=name, group=DOOMED_GROUP), errno.ENODEV)  # type: ignore[misc] # a bound default
        _done(lambda: route.link("del", group=DOOMED_GROUP), errno.ENODEV)

    in_netns(host, "links of pods that are gone", delete)


def attached(host: Netns) -> set[str]:
    """Host names of all pods' links."""

    def names(route: Any) -> set[str]:
        links = route.get_links()
        return {link.get("ifname") for link in links if link.get("group") == ATTACHED_GROUP}

    return in_netns(host, "links", names)


def wrong(host: Netns, attachment: Attachment) -> list[str]:
    """In what the kernel differs from what `make` made (of a chained one: from the addresses), as phrases."""
    try:
        pod = Netns.open(Path(attachment.netns))
    except KernelError as error:
        return [str(error)]
    with pod:
        found = in_netns(
            pod, f"link {attachment.ifname}", lambda route: list(_wrong_in_pod(route, attachment))
        )
    if not attachment.chained:
        name = ends(attachment.key).host_name
        found += in_netns(host, f"link {name}", lambda route: list(_wrong_on_host(route, attachment)))
    return found


def _wrong_in_pod(route: Any, attachment: Attachment) -> Iterator[str]:
    name, pair = attachment.ifname, ends(attachment.key)
    link = _link(route, name)
    if link is None:
        yield f"{name} is not in the namespace"
        return
    if not link["flags"] & _IFF_UP:
        yield f"{name} is down"
    if not attachment.chained and link.get("address") != pair.mac:
        yield f"{name} has the link address {link.get('address')}, not {pair.mac}"
    there = {each.get("address") for each in route.get_addr(index=link["index"])}
    for address in attachment.addresses:
        if format_address(address) not in there:
            yield f"{name} has no address {format_address(address)}"
    if attachment.chained:
        return
    for each in {version(address): address for address in attachment.addresses}.values():
        gateway = GATEWAYS[version(each)]
        defaults = route.get_routes(family=family(each), oif=link["index"], dst_len=0)
        if not any(item.get("gateway") == gateway for item in defaults):
            yield f"{name} has no default route through {gateway}"
        if _neighbour(route, link["index"], family(each), gateway) != pair.host_mac:
            yield f"{name} has no neighbour {gateway} at {pair.host_mac}"


def _wrong_on_host(route: Any, attachment: Attachment) -> Iterator[str]:
    pair = ends(attachment.key)
    link = _link(route, pair.host_name)
    if link is None:
        yield f"{pair.host_name} is not on the node"
        return
    if not link["flags"] & _IFF_UP:
        yield f"{pair.host_name} is down"
    for address in attachment.addresses:
        text = format_address(address)
        if _way_to(route, address) != link["index"]:
            yield f"the node has no route to {text} through {pair.host_name}"
        if _neighbour(route, link["index"], family(address), text) != pair.mac:
            yield f"{pair.host_name} has no neighbour {text} at {pair.mac}"


def _way_to(route: Any, address: Address) -> int | None:
    """The index of the link through which the node sends to ``address``."""
    found: list[Any] = []  # Any: pyroute2's messages have no types
    options = {"family": family(address), "dst": format_address(address)}
    _done(lambda: found.extend(route.route("get", **options)), errno.ENETUNREACH)
    return next((item.get("oif") for item in found), None)


def _neighbour(route: Any, index: int, family_: int, address: str) -> str | None:
    """The link address of ``address`` on a link. Asked for alone: a node's whole table takes long to read."""
    found: list[Any] = []  # Any: pyroute2's messages have no types
    options = {"family": family_, "dst": address, "ifindex": index}
    _done(lambda: found.extend(route.neigh("get", **options)), errno.ENOENT)
    return next((str(item.get("lladdr")) for item in found), None)


def _link(route: Any, name: str) -> Any:
    for link in route.get_links(ifname=name) if _exists(name) else ():
        return link
    return None


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
