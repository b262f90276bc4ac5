"""The rows of `bpf/maps/short_circuit.h`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meshd.dataplane.pod_network.flow_rows import TupleRow
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.kernel.btf import Btf
from meshd.kernel.codec import Codec

# Written by the agent.
MAPS = ("short_circuit_workloads",)

SOCKETS, SLOT, SWITCH, EPOCH = (
    "short_circuit_sockets",
    "short_circuit_programs",
    "short_circuit_switch",
    "short_circuit_epoch",
)
# Sockets that are admitted outlive every build, and with them these.
FROZEN = (SOCKETS, SLOT, SWITCH, EPOCH)
CONNECTIONS, WATCHES, TOTALS, LEAVING, EVENTS = (
    "short_circuit_connections",
    "short_circuit_watches",
    "short_circuit_totals",
    "short_circuit_leaving",
    "short_circuit_events",
)
# No rows of anybody's plan.
KERNEL_MAPS = (*FROZEN, CONNECTIONS, WATCHES, TOTALS, LEAVING, EVENTS, "short_circuit_draft")

STUB, DECIDE, CHECK, ASK, ADOPT, FORGET, RAISE = (
    "short_circuit_stub",
    "short_circuit_decide",
    "short_circuit_check",
    "short_circuit_ask",
    "short_circuit_adopt",
    "short_circuit_forget",
    "short_circuit_raise",
)
SPLICE, TEE, REQUEST = "short_circuit_splice", "short_circuit_tee", "short_circuit_request"
PROGRAMS = (STUB, DECIDE, CHECK, ASK, ADOPT, FORGET, RAISE, SPLICE, TEE, REQUEST)


class WorkloadRow(NamedTuple):
    """``netns_id``: negative is the node's own namespace."""

    netns_cookie: int
    netns_id: int


class KeyRow(NamedTuple):
    """A socket that is admitted, as it sees itself; ports in network order."""

    local: AddressRow
    remote: AddressRow
    local_port: int
    remote_port: int
    netns_cookie: int


class WatchRow(NamedTuple):
    watched_since_ns: int
    exclusion: int
    process: int


# Of bpf/maps/short_circuit.h.
MARKS, CAUSES = 64, 17


class EndRow(NamedTuple):
    socket: int = 0
    netns_cookie: int = 0
    epoch: int = 0
    bytes: int = 0
    messages: int = 0
    passed_bytes: int = 0
    passed_messages: int = 0
    period_ns: int = 0
    period_messages: int = 0
    period_bytes: int = 0
    period_passed: int = 0
    period_answers: int = 0
    period_full: int = 0
    marks: tuple[int, ...] = (0,) * MARKS
    read_marks: int = 0
    causes: tuple[int, ...] = (0,) * CAUSES


class ConnectionRow(NamedTuple):
    flags: int
    leaves: int
    since_ns: int
    ends: tuple[EndRow, ...]


class SentRow(NamedTuple):
    bytes: int
    messages: int
    passed_bytes: int
    passed_messages: int
    causes: tuple[int, ...]


class TotalRow(NamedTuple):
    connections: int
    sent: tuple[SentRow, ...]


class PairRow(NamedTuple):
    first: AddressRow
    second: AddressRow


class CheckRow(NamedTuple):
    key: TupleRow
    senders: tuple[int, ...]
    waiting: tuple[int, ...]
    found: int


@dataclass(frozen=True, slots=True)
class Layouts:
    """The codecs of these rows, and the names of numbers in them."""

    u32: Codec[int]
    u64: Codec[int]
    address: Codec[AddressRow]
    tuple: Codec[TupleRow]
    workload: Codec[WorkloadRow]
    key: Codec[KeyRow]
    watch: Codec[WatchRow]
    connection: Codec[ConnectionRow]
    pair: Codec[PairRow]
    total: Codec[TotalRow]
    check: Codec[CheckRow]
    causes: Mapping[int, str]
    exclusions: Mapping[int, str]
    events: Mapping[int, str]
    is_leaving: int
    is_joining: int
    is_test: int


def layouts(btf: Btf) -> Layouts:
    """The codecs of this object.

    Raises:
        LayoutError: the object's structs have other fields than this build knows.
    """
    flags = btf.enum("short_circuit_flag")
    return Layouts(
        u32=btf.codec("__u32", int),
        u64=btf.codec("__u64", int),
        address=btf.codec("address", AddressRow),
        tuple=btf.codec("tuple", TupleRow),
        workload=btf.codec("short_circuit_workload", WorkloadRow),
        key=btf.codec("short_circuit_key", KeyRow),
        watch=btf.codec("short_circuit_watch", WatchRow),
        connection=btf.codec("short_circuit_connection", ConnectionRow),
        pair=btf.codec("short_circuit_pair", PairRow),
        total=btf.codec("short_circuit_total", TotalRow),
        check=btf.codec("short_circuit_check", CheckRow),
        causes=_names(btf, "short_circuit_cause", "SHORT_CIRCUIT_", "SHORT_CIRCUIT_CAUSES"),
        exclusions=_names(btf, "short_circuit_exclusion", "SHORT_CIRCUIT_"),
        events=_names(btf, "short_circuit_event", "SHORT_CIRCUIT_EVENT_", "SHORT_CIRCUIT_EVENTS"),
        is_leaving=flags["SHORT_CIRCUIT_IS_LEAVING"],
        is_joining=flags["SHORT_CIRCUIT_IS_JOINING"],
        is_test=flags["SHORT_CIRCUIT_IS_TEST"],
    )


def _names(btf: Btf, enum: str, prefix: str, last: str = "") -> dict[int, str]:
    return {
        number: name.removeprefix(prefix).lower() for name, number in btf.enum(enum).items() if name != last
    }
