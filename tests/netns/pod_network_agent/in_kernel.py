"""What the kernel holds of a node's pod network, asked without the agent."""

from __future__ import annotations

import socket
from pathlib import Path

from meshd.dataplane.pod_network import device_links, filters, rows
from meshd.dataplane.pod_network.places import POD, Place
from meshd.dataplane.pod_network.rows import PodRow, UplinkRow
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject
from meshd.kernel.pins import pin_path
from meshd.kernel.route_socket import RouteSocket
from meshd.model import Address, format_address
from tests.netns.cni.node import CniNode


def filters_on(node: CniNode, name: str, place: Place = POD) -> dict[str, int]:
    """Program -> its id, of the filters on the device ``name``."""

    def look() -> dict[str, int]:
        with RouteSocket() as route:
            index = socket.if_nametoindex(name)
            return {
                program: number for (_, program), number in filters.attached(route, [index], place).items()
            }

    return node.netns.run(look)


def links_of(node: CniNode) -> dict[tuple[int, str], int]:
    """(ifindex, program) -> its id, of the pinned links."""
    return device_links.attached(pins(node) / "links")


def programs_on(node: CniNode, name: str, place: Place = POD) -> dict[str, int]:
    """Program -> its id, of those on the device ``name``, as links or, where the kernel has no tcx, as filters."""
    index = index_of(node, name)
    linked = {program: number for (at, program), number in links_of(node).items() if at == index}
    return filters_on(node, name, place) | linked


def pods(node: CniNode) -> dict[str, PodRow]:
    """Address -> row."""
    made, entries = _read(node, "pods")
    return {
        format_address(Address(made.address.decode(key).bytes)): made.pod.decode(value)
        for key, value in entries.items()
    }


def uplinks(node: CniNode) -> dict[int, UplinkRow]:
    """Ifindex -> row."""
    made, entries = _read(node, "uplinks")
    return {made.u32.decode(key): made.uplink.decode(value) for key, value in entries.items()}


def number(node: CniNode, name: str) -> int:
    """What the map of one number holds."""
    made, entries = _read(node, name)
    return made.u32.decode(entries[bytes(4)])


def pins(node: CniNode) -> Path:
    return node.agent.bpffs / "node"


def index_of(node: CniNode, name: str) -> int:
    return node.netns.run(lambda: socket.if_nametoindex(name))


def _read(node: CniNode, name: str) -> tuple[rows.Layouts, dict[bytes, bytes]]:
    configured = node.agent.options.get("bpfObject")
    with BpfObject.open(Path(str(configured))) if configured else BpfObject.open() as bpf:
        made = rows.layouts(bpf.btf)
        pin = pin_path(pins(node) / "maps", name, bpf.btf.schema_hash(name))
    opened = Map.open_pinned(pin, name)
    try:
        return made, dict(opened.items())
    finally:
        opened.close()
