"""The rows of the tables of flows, which the programs write and the agent reads."""

from __future__ import annotations

from typing import NamedTuple

from meshd.dataplane.pod_network.rows import AddressRow


class TupleRow(NamedTuple):
    source: AddressRow
    destination: AddressRow
    source_port: int
    destination_port: int
    protocol: int


class WayRow(NamedTuple):
    kind: int = 0
    ifindex: int = 0
    mtu: int = 0
    hop_family: int = 0
    hop: bytes = bytes(16)
    node: int = 0
    identity: int = 0


class KeptWayRow(NamedTuple):
    kept_ns: int = 0
    way: WayRow = WayRow()
    from_ifindex: int = 0
    generation: int = 0


class FlowRow(NamedTuple):
    last_seen_ns: int
    other: TupleRow
    owner: AddressRow
    flags: int
    way: KeptWayRow = KeptWayRow()
    way_reversed: KeptWayRow = KeptWayRow()
    look_again_ns: int = 0
    examined: int = 0
    refusals: int = 0
