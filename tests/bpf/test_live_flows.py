"""Which flows a clean-up would end, counted from rows of the real maps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

import pytest

from meshd.config_pod_network import FlowTimeouts
from meshd.dataplane.pod_network import destinations
from meshd.dataplane.pod_network.destinations import DestinationRow, KeyRow
from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from meshd.dataplane.pod_network.live_flows import Live, count
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.kernel.btf import Btf
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject
from meshd.model import parse_address

TIMEOUTS = FlowTimeouts(established_s=1000, closing_s=10, datagram_s=100, echo_s=20)
POD, WORLD, REMOTE = (AddressRow(parse_address(text)) for text in ("10.1.0.1", "192.0.2.9", "10.2.0.9"))
NOBODY = AddressRow(bytes(16))
NONE = TupleRow(NOBODY, NOBODY, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Tables:
    """The maps `flows` and `destinations`, in which 10.2.0.0/16 is behind a tunnel."""

    btf: Btf
    maps: dict[str, Map]

    def add(self, to: AddressRow, protocol: int, idle_s: float, *flags: str) -> None:
        """A flow from POD, idle for so long; ``flags`` without FLOW_."""
        bits = self.btf.enum("flow_flag")
        key = TupleRow(POD, to, 4000 + self.maps["flows"].count(), 80, protocol)
        seen = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(idle_s * 10**9)
        row = FlowRow(seen, NONE, POD, sum(bits[f"FLOW_{name}"] for name in flags))
        value = self.btf.codec("flow", FlowRow).encode(row)
        self.maps["flows"].update(self.btf.codec("tuple", TupleRow).encode(key), value)

    def live(self) -> Live:
        return count(self.btf, self.maps, TIMEOUTS, time.clock_gettime_ns(time.CLOCK_MONOTONIC))


@pytest.fixture
def tables() -> Iterator[Tables]:
    with BpfObject.open() as bpf:
        bpf.leave_out_maps(set(bpf.maps()) - {"flows", "destinations"})
        bpf.load_only(())
        btf, loaded = bpf.btf, bpf.load()
    made = destinations.layouts(btf)
    tunnel = DestinationRow(WORLD, made.kinds["TUNNEL"], 256, 511, 1)
    network = KeyRow(96 + 16, AddressRow(parse_address("10.2.0.0")))
    loaded.maps["destinations"].update(made.key.encode(network), made.value.encode(tunnel))
    try:
        yield Tables(btf, loaded.maps)
    finally:
        loaded.close()


def test_only_flows_that_need_the_programs_count_and_each_once(tables: Tables) -> None:
    tables.add(WORLD, IPPROTO_TCP, 0, "REPLIED")
    tables.add(WORLD, IPPROTO_TCP, 0, "REPLIED", "TRANSLATED", "MASQUERADED")
    tables.add(WORLD, IPPROTO_TCP, 0, "REPLIED", "ALIAS", "MASQUERADED")
    tables.add(POD, IPPROTO_UDP, 0, "REPLIED", "TRANSLATED", "SERVICE")
    tables.add(REMOTE, IPPROTO_TCP, 0, "REPLIED")
    tables.add(REMOTE, IPPROTO_UDP, 0, "REPLIED")
    assert tables.live() == Live(masqueraded=1, translated=1, tunnelled=2)


@pytest.mark.parametrize(
    ("protocol", "idle_s", "flags", "expected"),
    [
        (IPPROTO_TCP, 990, (), 1),
        (IPPROTO_TCP, 1010, (), 0),
        (IPPROTO_TCP, 5, ("FIN_INITIATOR",), 1),
        (IPPROTO_TCP, 15, ("FIN_RESPONDER",), 0),
        (IPPROTO_TCP, 15, ("RESET",), 0),
        (IPPROTO_UDP, 90, (), 1),
        (IPPROTO_UDP, 110, (), 0),
        (IPPROTO_ICMP, 15, (), 1),
        (IPPROTO_ICMP, 25, (), 0),
    ],
)
def test_what_has_timed_out_is_not_alive_although_nobody_removed_it(
    tables: Tables, protocol: int, idle_s: float, flags: tuple[str, ...], expected: int
) -> None:
    tables.add(WORLD, protocol, idle_s, "REPLIED", "TRANSLATED", "MASQUERADED", *flags)
    assert tables.live().masqueraded == expected
