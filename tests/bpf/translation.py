"""A node without wires: the translations of tests/bpf/programs/pod_network_nat.bpf.c, run on single packets.

The programs run in a namespace with one uplink and a default route of each family, because they ask the kernel for routes
and for sockets; what they decide by is in maps that a test fills row by row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import NamedTuple

from meshd.dataplane import layouts as socket_lb
from meshd.dataplane.layouts import Endpoint, Member, MemberKey, ServiceRow, Slot, SlotKey
from meshd.dataplane.pod_network import destinations, rows
from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.kernel.btf import Btf
from meshd.kernel.codec import Codec
from meshd.kernel.netlink import VethEnd, add_route, create_veth, link_index
from meshd.kernel.netns import Netns
from meshd.kernel.object import BpfObject, Loaded
from tests.bpf.compiled import compiled
from tests.bpf.packets import FRAGMENT_HEADER, TCP, UDP, Packet, mapped

UPLINK = {4: "192.0.2.1", 6: "2001:db8::1"}
ROUTER = {4: "192.0.2.254", 6: "2001:db8::fe"}
NODE = {4: "192.0.2.2", 6: "2001:db8::2"}
POD = {4: "10.244.1.7", 6: "fd00:10::7"}
OTHER_POD = {4: "10.244.1.8", 6: "fd00:10::8"}
WORLD = {4: "203.0.113.5", 6: "2001:db8:1::5"}
PORTS = range(33000, 33064)

PASSED, TRANSLATED, BROKEN, DROPPED = 0, 1, 2, 100


class CountsRow(NamedTuple):
    unanswered: int = 0
    established: int = 0
    closing: int = 0
    datagram: int = 0
    echo: int = 0


class ExpiryRow(NamedTuple):
    kept: CountsRow
    expired: CountsRow
    orphans: int
    masqueraded: int
    services: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a program answered, and the frame as it left it."""

    outcome: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Codecs:
    """Of every row that a test reads or writes."""

    tuple: Codec[TupleRow]
    flow: Codec[FlowRow]
    pod_network: rows.Layouts
    destination_key: Codec[destinations.KeyRow]
    destination: Codec[destinations.DestinationRow]
    kinds: Mapping[str, int]
    flags: Mapping[str, int]
    drops: Mapping[str, int]
    services: socket_lb.Layouts
    expiry: Codec[ExpiryRow]


def codecs(btf: Btf) -> Codecs:
    """Those of this object."""
    return Codecs(
        btf.codec("tuple", TupleRow),
        btf.codec("flow", FlowRow),
        rows.layouts(btf),
        btf.codec("destination_key", destinations.KeyRow),
        btf.codec("destination", destinations.DestinationRow),
        btf.enum("destination_kind"),
        btf.enum("flow_flag"),
        btf.enum("drop_reason"),
        socket_lb.layouts(btf),
        btf.codec("flow_expiry", ExpiryRow),
    )


class Node:
    """The loaded programs and their maps, in a namespace of their own. ``uplink`` is the device's number."""

    def __init__(self, netns: Netns, uplink: int, loaded: Loaded, made: Codecs) -> None:
        self.netns, self.uplink, self.loaded, self.codecs = netns, uplink, loaded, made
        device = rows.UplinkRow(address(UPLINK[4]), address(UPLINK[6]))
        self._put("uplinks", made.pod_network.u32.encode(uplink), made.pod_network.uplink.encode(device))
        settings = rows.SettingsRow(address(NODE[4]), address(NODE[6]), 0)
        self._put("pod_network_settings", bytes(4), made.pod_network.settings.encode(settings))
        for family in (4, 6):
            self.pod(POD[family])
            self.destination(f"{POD[family]}/{24 if family == 4 else 64}", "DESTINATION_LOCAL_PODS")

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        self.loaded.maps[name].update(key, value)

    def pod(self, at: str, cookie: int = 77, flags: int = 0) -> None:
        """Adds a pod of this node."""
        row = rows.PodRow(cookie, 5, 3, flags, bytes(6), bytes(6))
        made = self.codecs.pod_network
        self._put("pods", made.address.encode(address(at)), made.pod.encode(row))

    def destination(self, network: str, kind: str) -> None:
        """Says what is where."""
        prefix = ip_network(network, strict=False)
        length = prefix.prefixlen + (96 if prefix.version == 4 else 0)
        key = destinations.KeyRow(length, address(str(prefix.network_address)))
        row = destinations.DestinationRow(AddressRow(bytes(16)), self.codecs.kinds[kind], 0, 0, 1)
        self._put(
            "destinations", self.codecs.destination_key.encode(key), self.codecs.destination.encode(row)
        )

    def serve(
        self, protocol: int, at: tuple[str, int], *backends: tuple[str, int], sticky_s: int = 0
    ) -> None:
        """Gives a frontend these backends, in a new list."""
        for name, key, value in service_rows(self.codecs.services, protocol, at, backends, sticky_s):
            self._put(name, key, value)

    def run(self, program: str, frame: bytes) -> Seen:
        """Runs ``program`` on ``frame`` as if it came by at the uplink."""
        context = bytearray(192)
        struct.pack_into("=I", context, 40, self.uplink)  # __sk_buff.ifindex
        run = self.netns.run(lambda: self.loaded.programs[program].test_run(frame, bytes(context)))
        return Seen(run.retval, run.data)

    def send(self, program: str, packet: Packet) -> Seen:
        """The same with a whole packet."""
        return self.run(program, packet.frame())

    def dropped(self, reason: str) -> int:
        """The outcome of a packet that is to be dropped for ``reason``."""
        return DROPPED + self.codecs.drops[reason]

    def flows(self, table: str = "flows") -> dict[TupleRow, FlowRow]:
        """The entries of a table of flows."""
        return {
            self.codecs.tuple.decode(key): self.codecs.flow.decode(value)
            for key, value in self.loaded.maps[table].items()
        }

    def owned(self, at: str) -> int:
        """How many flows are counted for a pod."""
        value = self.loaded.maps["pod_flows"].lookup(mapped(at))
        return int.from_bytes(value or b"", "little")


def service_rows(
    made: socket_lb.Layouts,
    protocol: int,
    at: tuple[str, int],
    backends: Sequence[tuple[str, int]],
    sticky_s: int = 0,
    external: bool = False,
) -> Iterator[tuple[str, bytes, bytes]]:
    """Map, key and value of each row that gives a frontend these backends, evenly; the frontend's own comes last."""
    frontend = Endpoint(mapped(at[0]), at[1], protocol)
    number = socket_lb.list_number(repr((at, backends)).encode())
    for place, (backend, port) in enumerate(backends):
        end = Endpoint(mapped(backend), port, protocol)
        slot = Slot(0xFFFFFFFF, 1, 1, end, end)
        yield "slots", made.slot_key.encode(SlotKey(number, place, frontend)), made.slot.encode(slot)
        yield "members", made.member_key.encode(MemberKey(number, end)), made.member.encode(Member(1))
    row = ServiceRow(number, len(backends), sticky_s, 1, made.external if external else 0)
    yield "frontends", made.endpoint.encode(frontend), made.service.encode(row)


def address(text: str) -> AddressRow:
    """An address as it is in rows."""
    return AddressRow(mapped(text))


def source_of(frame: bytes) -> tuple[str, int]:
    """Address and port (of an echo: the identifier) that a frame comes from."""
    if frame[14] >> 4 == 4:
        start, protocol, at = 34, frame[23], frame[26:30]
    else:
        start, protocol, at = 54, frame[20], frame[22:38]
        if protocol == FRAGMENT_HEADER:
            start, protocol = 62, frame[54]
    place = start if protocol in (TCP, UDP) else start + 4
    return str(ip_address(at)), int.from_bytes(frame[place : place + 2], "big")


def destination_of(frame: bytes) -> tuple[str, int]:
    """Address and port that a frame of TCP or UDP goes to."""
    start, at = (34, frame[30:34]) if frame[14] >> 4 == 4 else (54, frame[38:54])
    return str(ip_address(at)), int.from_bytes(frame[start + 2 : start + 4], "big")


@contextmanager
def node(directory: Path, run_name: str, **knobs: int) -> Iterator[Node]:
    """A node whose programs have these knobs; ``sizes`` of maps are the declared ones."""
    path = compiled("pod_network_nat", directory=directory)
    with BpfObject.open(path) as bpf:
        ports = {"masquerade_port_first": PORTS[0], "masquerade_port_last": PORTS[-1]}
        bpf.set_globals(ports | knobs)
        loaded = bpf.load()
        made = codecs(bpf.btf)
    try:
        with Netns.create("node") as netns, Netns.create("outside") as outside:
            ends = [
                VethEnd(
                    netns, f"{run_name}u", (ip_interface(f"{UPLINK[4]}/24"), ip_interface(f"{UPLINK[6]}/64"))
                ),
                VethEnd(outside, f"{run_name}o", ()),
            ]
            create_veth(*ends)
            for family, anywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
                add_route(netns, ip_network(anywhere), via=ip_address(ROUTER[family]))
            netns.write_sysctl("net/ipv4/ip_forward", "1")
            netns.write_sysctl("net/ipv6/conf/all/forwarding", "1")
            yield Node(netns, link_index(netns, ends[0].name), loaded, made)
    finally:
        loaded.close()
