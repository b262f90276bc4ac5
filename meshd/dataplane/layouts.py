"""The rows of `bpf/maps/socket_lb.h` as Python sees them: names only; sizes, order and byte order come from the object."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from meshd.kernel.btf import Btf
from meshd.kernel.codec import Codec


class Endpoint(NamedTuple):
    address: bytes
    port: int
    protocol: int


class ServiceRow(NamedTuple):
    list: int
    slots: int
    affinity_timeout_s: int
    source: int
    flags: int = 0
    drill_list: int = 0
    drill_slots: int = 0
    drill_until_ns: int = 0


class SlotKey(NamedTuple):
    list: int
    slot: int
    frontend: Endpoint


class Slot(NamedTuple):
    threshold: int
    weight: int
    source: int
    backend: Endpoint
    alias: Endpoint


class MemberKey(NamedTuple):
    list: int
    backend: Endpoint


class Member(NamedTuple):
    weight: int


class Connection(NamedTuple):
    netns_cookie: int
    frontend: Endpoint
    backend: Endpoint


class AttemptsRow(NamedTuple):
    last_ns: int
    answered_ns: int
    unanswered: int
    begun: int
    answered: int
    third_ns: int = 0
    avoided_until_ns: int = 0


class WorkloadRow(NamedTuple):
    flags: int


class SourceName(NamedTuple):
    name: bytes


@dataclass(frozen=True, slots=True)
class Layouts:
    """Every codec of the socket_lb maps, and its enums."""

    endpoint: Codec[Endpoint]
    service: Codec[ServiceRow]
    slot_key: Codec[SlotKey]
    slot: Codec[Slot]
    member_key: Codec[MemberKey]
    member: Codec[Member]
    connection: Codec[Connection]
    attempts: Codec[AttemptsRow]
    workload: Codec[WorkloadRow]
    source_name: Codec[SourceName]
    u32: Codec[int]
    u64: Codec[int]
    left_out: int
    external: int
    noted: int
    events: dict[str, int]


def layouts(btf: Btf) -> Layouts:
    """The codecs of this object.

    Raises:
        LayoutError: the object's structs have other fields than this build knows.
    """
    return Layouts(
        endpoint=btf.codec("endpoint", Endpoint),
        service=btf.codec("service", ServiceRow),
        slot_key=btf.codec("slot_key", SlotKey),
        slot=btf.codec("slot", Slot),
        member_key=btf.codec("member_key", MemberKey),
        member=btf.codec("member", Member),
        connection=btf.codec("connection", Connection),
        attempts=btf.codec("attempts", AttemptsRow),
        workload=btf.codec("workload", WorkloadRow),
        source_name=btf.codec("source_name", SourceName),
        u32=btf.codec("__u32", int),
        u64=btf.codec("__u64", int),
        left_out=btf.enum("workload_flag")["WORKLOAD_LEFT_OUT"],
        external=btf.enum("service_flag")["SERVICE_EXTERNAL"],
        noted=btf.enum("service_flag")["SERVICE_NOTED"],
        events=btf.enum("socket_lb_event"),
    )


@lru_cache(maxsize=4096)
def source_number(source: str) -> int:
    """The number that stands for ``source`` in rows: the same in every process, so nobody has to remember it."""
    return int.from_bytes(hashlib.blake2b(source.encode(), digest_size=4).digest(), "little") or 1


def list_number(content: bytes) -> int:
    """The number of the list with this frontend and slots, packed; unique for all practical purposes (64 bits)."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1
