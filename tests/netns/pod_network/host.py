"""A node with pods and a world, made of namespaces: the links of the product, its programs, and rows that a test chooses.

``host`` is the node: 192.0.2.1 and 2001:db8::1 on its uplink. ``world`` is at the other end (192.0.2.254, 2001:db8::fe), is
the node's default route, and has 203.0.113.5 and 2001:db8:1::5 besides. Nobody in the world has a route to a pod, until
`known_outside` gives it one.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import NamedTuple

from meshd.dataplane.pod_network import destinations, filters, links, rows
from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from meshd.dataplane.pod_network.places import POD, TUNNEL, UPLINK, Place
from meshd.kernel import netlink
from meshd.kernel.btf import Btf
from meshd.kernel.codec import Codec
from meshd.kernel.netlink import VethEnd, add_route, create_veth, link_index
from meshd.kernel.netns import Netns, on_thread
from meshd.kernel.object import BpfObject, Loaded
from meshd.kernel.program import TestRun
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink import Message
from meshd.model import parse_address
from meshd.model.attachment import Attachment
from meshd.model.workload import PodLink
from tests.bpf.packets import Packet
from tests.bpf.translation import address

PROGRAMS = (*POD.programs, *UPLINK.programs, *TUNNEL.programs)

NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
ROUTER = {4: "192.0.2.254", 6: "2001:db8::fe"}
WORLD = {4: "203.0.113.5", 6: "2001:db8:1::5"}
CIDR = {4: "10.244.1.0/24", 6: "fd00:10::/64"}
MTU = 1500
UPLINK_MAC = "02:00:00:00:01:01"
ADDRESS_PATIENCE_S = 30
_RTF_LOCAL = 0x80000000  # include/uapi/linux/ipv6_route.h
DIRECTIONS = ("from pod", "to pod")


class DropRow(NamedTuple):
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Codecs:
    """Of the rows that a test writes or reads, and the names of what is counted."""

    tuple: Codec[TupleRow]
    flow: Codec[FlowRow]
    pod_network: rows.Layouts
    destinations: destinations.Layouts
    events: Mapping[str, int]
    reasons: Mapping[str, int]
    flow_flags: Mapping[str, int]


def codecs(btf: Btf) -> Codecs:
    """Those of this object."""
    return Codecs(
        btf.codec("tuple", TupleRow),
        btf.codec("flow", FlowRow),
        rows.layouts(btf),
        destinations.layouts(btf),
        btf.enum("pod_network_event"),
        {name: number for name, number in btf.enum("drop_reason").items() if name != "DROP_REASONS"},
        btf.enum("flow_flag"),
    )


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the node. ``ip``: 4 or 6 -> its address; ``link`` is what its row says."""

    name: str
    netns: Netns
    ip: Mapping[int, str]
    link: PodLink


class Host:
    """The node. Its programs act from the start, and what they drop and count can be read."""

    def __init__(self, run_name: str, netns: Netns, world: Netns, loaded: Loaded, made: Codecs) -> None:
        self.run_name, self.netns, self.world = run_name, netns, world
        self.loaded, self.codecs = loaded, made
        self.uplink = link_index(netns, f"{run_name}u")
        self.pods: list[Pod] = []
        self._route = netns.run(RouteSocket)
        self.attach(self.uplink, UPLINK)

    def close(self) -> None:
        """Takes the node's own things away; the pods' namespaces go with them."""
        for pod in self.pods:
            pod.netns.close()
        self._route.close()

    def write(self, name: str, key: bytes, value: bytes) -> None:
        """One row of a map."""
        self.loaded.maps[name].update(key, value)

    def attach(self, index: int, place: Place) -> None:
        """Puts the programs of ``place`` on a device of the node, in place of those that are there."""
        self._route.exchange(filters.attach(index, place, self.loaded.programs))

    def detach(self, index: int, place: Place) -> None:
        """Takes them off."""
        self._route.exchange(filters.detach(index, place))

    def use(self, loaded: Loaded) -> None:
        """Other programs, over the same maps, from now on; those that are attached stay until they are replaced."""
        self.loaded = loaded

    def add_pod(self, number: int, via_stack: bool = False, mtu: int = MTU, attached: bool = True) -> Pod:
        """A pod with the addresses 10.244.1.NUMBER and fd00:10::NUMBER, its row and its programs."""
        name = f"{self.run_name}p{number}"
        inside = Netns.create(name)
        ip = {4: f"10.244.1.{number}", 6: f"fd00:10::{number}"}
        attachment = Attachment(
            "meshd", name, "eth0", f"/proc/{os.getpid()}/fd/{inside.fd}", "default", name,
            tuple(map(parse_address, ip.values())), via_stack=via_stack,
        )  # fmt: skip
        programs = self.loaded.programs if attached else {}
        link = on_thread(
            lambda: links.make(
                self._route, attachment, mtu, lambda index: filters.attach(index, POD, programs)
            )
        )
        made = Pod(name, inside, ip, link)
        self.pods.append(made)
        self.write_pod(made)
        inside.run(lambda: _await_address_v6(ip[6]))
        return made

    def write_pod(self, pod: Pod, observed: bool = False, identity: int = rows.UNMANAGED) -> None:
        """The rows of a pod."""
        link = replace(pod.link, observed=observed)
        for name, written in rows.pods(self.codecs.pod_network, (link,), identity=identity).items():
            for key, value in written.items():
                self.write(name, key, value)

    def exchange(self, *messages: Message) -> None:
        """Sends rtnetlink requests in the node's namespace."""
        self._route.exchange(messages)

    def write_destination(
        self,
        network: str,
        kind: str,
        tunnel: str = "",
        identities: tuple[int, int] = (0, 0),
        *,
        takes_identities: bool = False,
    ) -> None:
        """Says what is where; ``kind`` without DESTINATION_."""
        prefix = ip_network(network, strict=False)
        length = prefix.prefixlen + (96 if prefix.version == 4 else 0)
        key = destinations.KeyRow(length, address(str(prefix.network_address)))
        behind = address(tunnel) if tunnel else rows.AddressRow(bytes(16))
        made = self.codecs.destinations
        flags = made.takes_identity if takes_identities else 0
        row = destinations.DestinationRow(behind, made.kinds[kind], *identities, 1, flags)
        self.write("destinations", made.key.encode(key), made.value.encode(row))

    def known_outside(self, *pods: Pod) -> None:
        """The world reaches these pods by their addresses, and they answer it under them."""
        for pod in pods:
            for family, at in pod.ip.items():
                add_route(self.world, ip_network(at), via=ip_address(NODE[family]))
        for each in (*WORLD.values(), *ROUTER.values()):
            self.write_destination(each, "NATIVE")

    def sum_of(self, name: str, index: int) -> int:
        """The first 64 bits of a per-CPU counter, over all CPUs."""
        values = self.loaded.maps[name].lookup(index.to_bytes(4, "little")) or b""
        size = self.loaded.maps[name].info.value_size
        return sum(
            int.from_bytes(values[at : at + 8], "little") for at in range(0, len(values), max(size, 8))
        )

    def event(self, name: str) -> int:
        """How often POD_NETWORK_``name`` happened."""
        return self.sum_of("pod_network_events", self.codecs.events[f"POD_NETWORK_{name}"])

    def dropped(self) -> dict[str, int]:
        """Reason (without DROP_) and direction -> packets, of those that were dropped at all."""
        found = {
            f"{reason[5:]} {direction}": self.sum_of("drops", number * len(DIRECTIONS) + place)
            for reason, number in self.codecs.reasons.items()
            for place, direction in enumerate(DIRECTIONS)
        }
        return {name: packets for name, packets in found.items() if packets}

    def run(self, program: str, pod: Pod | None, packet: Packet) -> TestRun:
        """Runs a program on a packet, as if it came by at a pod's link, or else at the uplink, and was for this node."""
        return self.run_frame(program, pod, packet.frame()[12:])

    def run_frame(self, program: str, pod: Pod | None, rest: bytes) -> TestRun:
        """The same on a frame; ``rest`` is what follows its link addresses."""
        index, link = (pod.link.ifindex, pod.link.host_mac) if pod else (self.uplink, UPLINK_MAC)
        context = bytearray(192)
        struct.pack_into("=I", context, 40, index)  # __sk_buff.ifindex
        frame = bytes.fromhex(link.replace(":", "")) + bytes(6) + rest
        return self.netns.run(lambda: self.loaded.programs[program].test_run(frame, bytes(context)))

    def owned(self, at: str) -> int:
        """How many flows are counted for a pod."""
        value = self.loaded.maps["pod_flows"].lookup(address(at).bytes)
        return int.from_bytes(value or b"", "little")

    def flows(self, table: str = "flows") -> dict[TupleRow, FlowRow]:
        """The entries of a table of flows."""
        return {
            self.codecs.tuple.decode(key): self.codecs.flow.decode(value)
            for key, value in self.loaded.maps[table].items()
        }


def load(
    sizes: Mapping[str, int] | None = None,
    pins: Path | None = None,
    programs: tuple[str, ...] = PROGRAMS,
    **knobs: int,
) -> tuple[Loaded, Codecs, BpfObject]:
    """The package's programs of the pod network; over the maps that are pinned in ``pins``, if there are."""
    bpf = BpfObject.open()
    bpf.load_only(programs)
    bpf.set_max_entries(sizes or {})
    bpf.set_globals({"masquerade": 1, "masquerade_port_first": 50000, "masquerade_port_last": 50999} | knobs)
    return bpf.load(pins=pins), codecs(bpf.btf), bpf


@contextmanager
def host(
    run_name: str,
    sizes: Mapping[str, int] | None = None,
    pins: Path | None = None,
    programs: tuple[str, ...] = PROGRAMS,
    **knobs: int,
) -> Iterator[Host]:
    """A node with an uplink to a world, and no pod yet."""
    loaded, made, bpf = load(sizes, pins, programs, **knobs)
    with bpf, Netns.create("node") as node, Netns.create("world") as world:
        create_veth(
            VethEnd(node, f"{run_name}u", _interfaces(NODE), mac=UPLINK_MAC),
            VethEnd(world, f"{run_name}w", _interfaces(ROUTER)),
        )
        for each in WORLD.values():
            netlink.set_up(world, "lo", [ip_interface(each)])
        for family, anywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
            add_route(node, ip_network(anywhere), via=ip_address(ROUTER[family]))
        for router in (node, world):
            router.write_sysctl("net/ipv4/ip_forward", "1")
            router.write_sysctl("net/ipv6/conf/all/forwarding", "1")
        made_host = Host(run_name, node, world, loaded, made)
        _fill(made_host)
        try:
            yield made_host
        finally:
            made_host.close()
            loaded.close()


def _await_address_v6(at: str) -> None:
    """Until this namespace takes packets for ``at``: the kernel enters the route to an address of its own by a work queue
    (net/ipv6/addrconf.c, addrconf_dad_work), and what comes before is lost.
    """
    wanted, routes = ip_address(at).packed.hex(), Path("/proc/thread-self/net/ipv6_route")
    deadline = time.monotonic() + ADDRESS_PATIENCE_S
    while not any(_is_local(line.split(), wanted) for line in routes.read_text().splitlines()):
        assert time.monotonic() < deadline, f"{at} is no address of its namespace"


def _is_local(route: list[str], at: str) -> bool:
    """Whether a line of ipv6_route is that of an address of the namespace itself."""
    return route[:2] == [at, "80"] and bool(int(route[8], 16) & _RTF_LOCAL)


def _interfaces(addresses: Mapping[int, str]) -> tuple[netlink.Interface, ...]:
    return ip_interface(f"{addresses[4]}/24"), ip_interface(f"{addresses[6]}/64")


def _fill(made: Host) -> None:
    layouts = made.codecs.pod_network
    row = rows.UplinkRow(address(NODE[4]), address(NODE[6]))
    made.write("uplinks", layouts.u32.encode(made.uplink), layouts.uplink.encode(row))
    settings = rows.SettingsRow(address(NODE[4]), address(NODE[6]), 0)
    made.write("pod_network_settings", bytes(4), layouts.settings.encode(settings))
    for family in (4, 6):
        made.write_destination(CIDR[family], "LOCAL_PODS")
        made.write_destination(NODE[family], "HOST")
