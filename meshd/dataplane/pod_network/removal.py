"""Takes the pod network out of the kernel, without an agent; pods that are there go on reaching each other by address.

Their links, routes and neighbours stay, and so does what the host's stack needs to forward between them, as long as there is
a pod. What ends is what only the programs did: masquerading, services for what the socket hooks do not see, and the tunnel.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from meshd.config import Config
from meshd.dataplane.opening import link_pins, map_pins
from meshd.dataplane.pod_network import (
    device_links,
    filters,
    health_address,
    links,
    live_flows,
    routes,
    tunnel,
)
from meshd.dataplane.pod_network.live_flows import Live
from meshd.dataplane.pod_network.places import ORDER, POD, TUNNEL, UPLINK
from meshd.dataplane.pod_network.sysctls import Sysctls, remembered_sysctls
from meshd.errors import FlowsWouldEnd
from meshd.kernel import rtnetlink as rt
from meshd.kernel.btf import Btf
from meshd.kernel.maps import Map
from meshd.kernel.netns import Netns
from meshd.kernel.object import BpfObject
from meshd.kernel.pins import pin_path
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import link_of

_READ = ("flows", "destinations")


def require_no_translated(config: Config) -> None:
    """Returns if no flow depends on the programs.

    Raises:
        FlowsWouldEnd: some do; nothing was changed. KernelError: a map cannot be read.
    """
    with BpfObject.open(config.bpf_object) if config.bpf_object else BpfObject.open() as bpf:
        live = _live(config, bpf.btf)
    if live:
        raise FlowsWouldEnd(live.masqueraded, live.translated, live.tunnelled)


def _live(config: Config, btf: Btf) -> Live:
    built = set(btf.maps())
    if not built.issuperset(_READ):
        return Live()
    pins = {name: pin_path(map_pins(config), name, btf.schema_hash(name)) for name in _READ}
    if not all(pin.exists() for pin in pins.values()):
        return Live()
    with contextlib.ExitStack() as opened:
        maps = {name: Map.open_pinned(pin, name) for name, pin in pins.items()}
        for each in maps.values():
            opened.callback(each.close)
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return live_flows.count(btf, maps, config.pod_network.timeouts, now)


def take_off(config: Config) -> list[str]:
    """Programs off, sending ones first; then what they needed. The devices that had them, by name; may be repeated.

    Raises:
        KernelError, JournalError: what was removed before it stays removed.
    """
    if not _was_there(config):
        return []
    order = {name: place for place, name in enumerate(reversed(ORDER))}
    taken = {f"link {index}" for index, _ in device_links.attached(link_pins(config))}
    device_links.detach_all(link_pins(config), order)
    with RouteSocket() as route, Netns.current() as host:
        pods = links.attached(route)
        taken |= _take_filters_off(route)
        # Without programs nothing of what is sent into the tunnel arrives. Native ways are pods' own, like their links.
        tunnel.delete(route)
        if not pods:
            routes.remove_all(route)
            health_address.ensure(route, ())
        Sysctls(remembered_sysctls(config), host).put_back(reserved_only=bool(pods))
    return sorted(taken)


def is_attached(config: Config) -> bool:
    """Whether an agent with this configuration left programs of the pod network in the kernel."""
    return map_pins(config).is_dir() and any(map_pins(config).glob("pods_*"))


def _was_there(config: Config) -> bool:
    """Whether an agent with this configuration ever had a pod network: else nothing here is ours."""
    return is_attached(config) or remembered_sysctls(config).exists() or any(_pins(link_pins(config)))


def _pins(directory: Path) -> Iterator[Path]:
    return directory.glob("pod_network_*") if directory.is_dir() else iter(())


def _take_filters_off(route: RouteSocket) -> set[str]:
    """From every device: without tcx uplinks have filters too."""
    found = {each.index: each.name for each in map(link_of, route.exchange([rt.get_links()])[0])}
    taken = {
        found[index]
        for place in (POD, UPLINK, TUNNEL)
        for index, _ in filters.attached(route, list(found), place)
    }
    indexes = [index for index, name in found.items() if name in taken]
    for place in (POD, UPLINK, TUNNEL):
        for index in indexes:
            route.exchange(filters.detach(index, place))
    return taken
