"""Flows that would end with the programs, because these translate them or send them through the tunnel, counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP

from meshd.config_pod_network import FlowTimeouts
from meshd.dataplane.pod_network.destinations import DestinationRow, KeyRow
from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.kernel.btf import Btf
from meshd.kernel.maps import Map


@dataclass(frozen=True, slots=True)
class Live:
    """Flows that were answered and are not over. One may count twice."""

    masqueraded: int = 0
    translated: int = 0
    tunnelled: int = 0

    def __bool__(self) -> bool:
        return bool(self.masqueraded or self.translated or self.tunnelled)


def count(btf: Btf, maps: Mapping[str, Map], timeouts: FlowTimeouts, now_ns: int) -> Live:
    """What of the map `flows` is alive at ``now_ns`` (CLOCK_MONOTONIC); what is due to expire is not.

    Raises:
        LayoutError: the maps are of another layout. KernelError: one cannot be read.
    """
    tuples, flows = btf.codec("tuple", TupleRow), btf.codec("flow", FlowRow)
    flags = btf.enum("flow_flag")
    over = flags["FLOW_RESET"] | flags["FLOW_FIN_INITIATOR"] | flags["FLOW_FIN_RESPONDER"]
    is_tunnelled = _behind_tunnel(btf, maps["destinations"])
    masqueraded = translated = tunnelled = 0
    for key, value in maps["flows"].items():
        flow = flows.decode(value)
        # Of a translated flow the second entry, which stands for the same.
        if flow.flags & flags["FLOW_ALIAS"]:
            continue
        ends = tuples.decode(key)
        if now_ns - flow.last_seen_ns > _timeout_s(ends.protocol, bool(flow.flags & over), timeouts) * 10**9:
            continue
        masqueraded += bool(flow.flags & flags["FLOW_MASQUERADED"])
        translated += bool(flow.flags & flags["FLOW_SERVICE"])
        tunnelled += is_tunnelled(ends.source) or is_tunnelled(ends.destination)
    return Live(masqueraded, translated, tunnelled)


def _timeout_s(protocol: int, is_over: bool, timeouts: FlowTimeouts) -> int:
    if protocol == IPPROTO_TCP:
        return timeouts.closing_s if is_over else timeouts.established_s
    return timeouts.echo_s if protocol in {IPPROTO_ICMP, IPPROTO_ICMPV6} else timeouts.datagram_s


def _behind_tunnel(btf: Btf, destinations: Map) -> Callable[[AddressRow], bool]:
    keys, rows = btf.codec("destination_key", KeyRow), btf.codec("destination", DestinationRow)
    kind = btf.enum("destination_kind")["DESTINATION_TUNNEL"]

    # Asked twice for each flow, of few addresses.
    @cache
    def is_behind(address: AddressRow) -> bool:
        value = destinations.lookup(keys.encode(KeyRow(128, address)))
        return value is not None and rows.decode(value).kind == kind

    return is_behind
