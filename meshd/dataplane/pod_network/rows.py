"""The rows of `bpf/maps/pod_network.h` that are written for this node's own pods and devices. Pure."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import NamedTuple

from meshd.dataplane.devices import Found
from meshd.dataplane.rows import Rows
from meshd.kernel.btf import Btf
from meshd.kernel.codec import Codec
from meshd.model import Address
from meshd.model.workload import PodLink

# In the order of writing. Destinations before pods: a pod that can send must find where to.
MAPS = ("destinations", "uplinks", "pod_network_settings", "observed_links", "pods")

# Counts the changes of those.
WAY_GENERATION = "way_generation"

# No rows of anybody's plan. New flows first: what moves to the other table while they are copied is seen there, then.
KERNEL_MAPS = (
    "new_flows",
    "flows",
    "flow_drafts",
    WAY_GENERATION,
    "pod_flows",
    "pod_flows_counted",
    "fragments",
    "pod_network_work",
    "pod_network_events",
    "drops",
)

# What a workload without an identity is in a tunnel, and a node.
UNMANAGED, REMOTE_NODE = 3, 6

_NO_ADDRESS = bytes(16)


class AddressRow(NamedTuple):
    bytes: builtins.bytes


class PodRow(NamedTuple):
    netns_cookie: int
    ifindex: int
    identity: int
    flags: int
    mac: bytes
    host_mac: bytes


class ObservedLinkRow(NamedTuple):
    netns_cookie: int


class UplinkRow(NamedTuple):
    v4: AddressRow
    v6: AddressRow


class SettingsRow(NamedTuple):
    node_v4: AddressRow
    node_v6: AddressRow
    tunnel_ifindex: int


@dataclass(frozen=True, slots=True)
class Layouts:
    """The codecs of these rows, and the flags of a pod."""

    u32: Codec[int]
    address: Codec[AddressRow]
    pod: Codec[PodRow]
    observed_link: Codec[ObservedLinkRow]
    uplink: Codec[UplinkRow]
    settings: Codec[SettingsRow]
    via_stack: int
    observed: int
    short_circuit: int


def layouts(btf: Btf) -> Layouts:
    """The codecs of this object.

    Raises:
        LayoutError: the object's structs have other fields than this build knows.
    """
    flags = btf.enum("pod_flag")
    return Layouts(
        u32=btf.codec("__u32", int),
        address=btf.codec("address", AddressRow),
        pod=btf.codec("pod", PodRow),
        observed_link=btf.codec("observed_link", ObservedLinkRow),
        uplink=btf.codec("uplink", UplinkRow),
        settings=btf.codec("pod_network_settings", SettingsRow),
        via_stack=flags["POD_VIA_STACK"],
        observed=flags["POD_OBSERVED"],
        short_circuit=flags["POD_SHORT_CIRCUIT"],
    )


def pods(
    made: Layouts, links: tuple[PodLink, ...], *, identity: int = UNMANAGED, short_circuit: bool = False
) -> Rows:
    """A row for each address of a pod, and for each of its links that another plugin made.

    ``identity``: who it is in tunnels to nodes that take it. ``short_circuit``: its connections are looked at, where nothing
    but our programs touches its packets.
    """
    rows: dict[bytes, bytes] = {}
    observed = {
        made.u32.encode(link.ifindex): made.observed_link.encode(ObservedLinkRow(link.netns_cookie))
        for link in links
        if link.observed
    }
    for link in links:
        flags = link.via_stack * made.via_stack | link.observed * made.observed
        if short_circuit and not flags:
            flags = made.short_circuit
        value = made.pod.encode(
            PodRow(
                link.netns_cookie,
                link.ifindex,
                identity,
                flags,
                _mac(link.mac),
                _mac(link.host_mac),
            )
        )
        rows |= {made.address.encode(AddressRow(address)): value for address in link.addresses}
    return {"observed_links": observed, "pods": rows}


def uplinks(made: Layouts, found: Found) -> Rows:
    """A row for each device that leads out of the node."""
    return {
        "uplinks": {
            made.u32.encode(each.ifindex): made.uplink.encode(UplinkRow(_row(each.v4), _row(each.v6)))
            for each in found.uplinks
        }
    }


def settings(made: Layouts, found: Found) -> Rows:
    """The one row of what is the node's as a whole."""
    row = SettingsRow(_row(found.node_v4), _row(found.node_v6), found.tunnel_ifindex)
    return {"pod_network_settings": {made.u32.encode(0): made.settings.encode(row)}}


def _row(address: Address | None) -> AddressRow:
    return AddressRow(address or _NO_ADDRESS)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
