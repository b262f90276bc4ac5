"""A pod's veth pair in the kernel: names, addresses, routes and neighbours on both sides.

The pod routes everything to a gateway that nobody has (169.254.1.1, fe80::1), whose link address is a permanent neighbour:
the host's end. The host has a route and a permanent neighbour for each of the pod's addresses. So no packet waits for ARP
or neighbour discovery, no subnet is shared, and pods, host and natively routed nodes reach each other by address through
the host's stack alone.

Every function runs on a worker thread, `make` on one of its own. ``host`` is a socket of the node's namespace.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel import rtnetlink as rt
from meshd.kernel.netns import SYSCTLS, Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink import Message, VethSide
from meshd.kernel.rtnetlink_answers import index_of, is_without_ipv6, link_of
from meshd.model import Address, is_ipv4
from meshd.model.attachment import Attachment, AttachmentKey
from meshd.model.workload import PodLink

GATEWAYS: Mapping[int, str] = {4: "169.254.1.1", 6: "fe80::1"}

# Link groups are the namespace's own: `ip link show group 7701`.
ATTACHED_GROUP = 7701
DOOMED_GROUP = 7702
PODS_GROUPS = frozenset({ATTACHED_GROUP, DOOMED_GROUP})

# How long a link may take to notice its other end, and how often it is looked at.
RUNNING_S, LOOK_EVERY_S = 0.2, 0.001

# What else belongs to the host's end of a pod's link, by its ifindex; sent with its routes.
More = Callable[[int], Sequence[Message]]


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


def ip(address: Address) -> rt.Address:
    """``address`` as the kernel layer takes it."""
    return IPv4Address(address[12:]) if is_ipv4(address) else IPv6Address(bytes(address))


def gateways(attachment: Attachment) -> list[rt.Address]:
    """The gateways of the families that the pod has addresses of."""
    versions = dict.fromkeys(4 if is_ipv4(address) else 6 for address in attachment.addresses)
    known: Mapping[int, rt.Address] = {4: IPv4Address(GATEWAYS[4]), 6: IPv6Address(GATEWAYS[6])}
    return [known[version] for version in versions]


def make(host: RouteSocket, attachment: Attachment, mtu: int, more: More = lambda _: ()) -> PodLink:
    """Makes the pair and all that belongs to it; what an earlier attempt left is replaced.

    The calling thread stays in the pod's namespace: `netns.apart` and `netns.on_thread` run it on one that ends.

    Raises:
        KernelError: refused; nothing is left. ENOENT: the pod's namespace is not there.
    """
    with Netns.open(Path(attachment.netns)) as pod:
        pod.enter()
        return _make(host, pod, attachment, mtu, more)


def _make(host: RouteSocket, pod: Netns, attachment: Attachment, mtu: int, more: More) -> PodLink:
    """In the pod's namespace, where its socket is made and its sysctls are."""
    pair = ends(attachment.key)
    near = VethSide(pair.host_name, pair.host_mac, mtu, ATTACHED_GROUP, is_up=True)
    far = VethSide(attachment.ifname, pair.mac, mtu, netns=pod.fd)
    with RouteSocket() as inside:
        _add_pair(host, near, far)
        try:
            index = _index(host, near.name)
            host.exchange([*_on_host(index, pair, attachment), *more(index)])
            [[answer]] = inside.exchange([rt.get_link(far.name)])
            if is_without_ipv6(answer) and any(not is_ipv4(each) for each in attachment.addresses):
                _enable_ipv6(far.name)
            inside.exchange(list(_in_pod(index_of(answer), pair, attachment)))
            _wait_until_running(host, near.name)
        except (KernelError, OSError):
            delete(host, near.name)
            raise
        return link(attachment, index, inside.netns_cookie())


def link(attachment: Attachment, index: int, netns_cookie: int) -> PodLink:
    """The link of ``attachment`` whose host's end is ``index``."""
    pair = ends(attachment.key)
    return PodLink(
        index, netns_cookie, pair.mac, pair.host_mac, attachment.addresses, via_stack=attachment.via_stack
    )


def _add_pair(host: RouteSocket, near: VethSide, far: VethSide) -> None:
    try:
        host.exchange([rt.add_veth(near, far)])
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        # Of this container and interface there is a pair already: with the host's end the pod's goes too.
        delete(host, near.name)
        host.exchange([rt.add_veth(near, far)])


def _on_host(index: int, pair: Ends, attachment: Attachment) -> Iterator[Message]:
    yield rt.set_alias(pair.host_name, f"{attachment.namespace}/{attachment.name}")
    for address in map(ip, attachment.addresses):
        yield rt.replace_neighbour(index, address, pair.mac)
        yield rt.replace_host_route(index, address)


def _in_pod(index: int, pair: Ends, attachment: Attachment) -> Iterator[Message]:
    yield rt.set_up(attachment.ifname, index)
    for address in map(ip, attachment.addresses):
        yield rt.add_address(index, address)
        if address.version == 6:
            yield rt.receive(index, address)
    for gateway in gateways(attachment):
        yield rt.replace_neighbour(index, gateway, pair.host_mac)
        yield rt.replace_default_route(index, gateway)


def _wait_until_running(host: RouteSocket, name: str) -> None:
    """That its other end came up, a link notices from a work queue, and until then drops what is sent on it.

    Newer kernels do that work when they are asked (linkwatch_sync_dev in rtnl_getlink), so this hardly ever waits. It does
    not fail: a link that is late is late by milliseconds, and is the pod's all the same.
    """
    end_s = time.monotonic() + RUNNING_S
    while not link_of(host.exchange([rt.get_link(name)])[0][0]).is_running and time.monotonic() < end_s:
        time.sleep(LOOK_EVERY_S)


def _index(route: RouteSocket, name: str) -> int:
    found = route.index(name)
    if not found:
        raise KernelError("find", f"link {name}", errno.ENODEV)
    return found


def _enable_ipv6(ifname: str) -> None:
    """Runtimes switch IPv6 off in namespaces whose plugins they do not expect to give such an address.

    The file is not asked: in a new namespace its directories are made at the first look, which takes longer than a route.
    """
    (SYSCTLS / "net/ipv6/conf" / ifname / "disable_ipv6").write_text("0")


def delete(host: RouteSocket, name: str) -> None:
    """Deletes one link; absent is no error."""
    host.exchange([rt.delete_link(name, tolerated=(errno.ENODEV,))])


def doom(host: RouteSocket, names: Sequence[str]) -> None:
    """Deletes links of pods by name, all at once: one by one, each would wait for all readers of the kernel's tables.

    What a sweep that was cut short had doomed goes too.
    """
    gone = (errno.ENODEV,)
    groups = [rt.set_group(name, DOOMED_GROUP, gone) for name in names]
    host.exchange([*groups, rt.delete_group(DOOMED_GROUP, gone)])


def attached(host: RouteSocket) -> dict[str, int]:
    """Host name -> ifindex of all pods' links."""
    [answers] = host.exchange([rt.get_links()])
    found = [link_of(each) for each in answers]
    return {link.name: link.index for link in found if link.group == ATTACHED_GROUP}
