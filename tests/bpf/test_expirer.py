"""The agent's side of expiring flows: how it runs the program, and what it remembers of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from socket import IPPROTO_TCP, IPPROTO_UDP

import pytest

from meshd.dataplane.pod_network.expire import CountsRow, Expirer
from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from meshd.dataplane.pod_network.places import EXPIRE
from meshd.dataplane.pod_network.rows import KERNEL_MAPS, AddressRow
from meshd.kernel.btf import Btf
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject
from meshd.model import parse_address

POD, WORLD = (AddressRow(parse_address(text)) for text in ("10.1.0.1", "192.0.2.9"))
NONE = TupleRow(AddressRow(bytes(16)), AddressRow(bytes(16)), 0, 0, 0)


class Table:
    """The map `flows` and the program that walks it; established flows are over after 100 s, others after 10."""

    def __init__(self) -> None:
        with BpfObject.open() as bpf:
            bpf.set_globals({"timeout_established_s": 100, "timeout_datagram_s": 10})
            bpf.leave_out_maps(set(bpf.maps()) - set(KERNEL_MAPS))
            bpf.load_only([EXPIRE])
            self.btf: Btf = bpf.btf
            self.loaded = bpf.load()
        self.flows: Map = self.loaded.maps["flows"]
        self.expirer = Expirer(self.btf, self.loaded.programs[EXPIRE], 1000)

    def add(self, port: int, protocol: int, idle_s: float) -> None:
        key = TupleRow(POD, WORLD, port, 80, protocol)
        seen = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(idle_s * 10**9)
        row = FlowRow(seen, NONE, POD, self.btf.enum("flow_flag")["FLOW_REPLIED"])
        value = self.btf.codec("flow", FlowRow).encode(row)
        self.flows.update(self.btf.codec("tuple", TupleRow).encode(key), value)


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table()
    try:
        yield made
    finally:
        made.loaded.close()


def test_a_run_removes_what_has_timed_out_and_tells_what_is_left_by_state(table: Table) -> None:
    table.add(1, IPPROTO_TCP, 90)
    table.add(2, IPPROTO_TCP, 110)
    table.add(3, IPPROTO_UDP, 5)
    table.add(4, IPPROTO_UDP, 15)
    table.add(5, IPPROTO_UDP, 20)
    answer = table.expirer.expire()
    assert answer.kept == CountsRow(unanswered=0, established=1, closing=0, datagram=1, echo=0)
    assert answer.expired == CountsRow(unanswered=0, established=1, closing=0, datagram=2, echo=0)
    assert table.flows.count() == 2


def test_what_was_expired_adds_up_over_runs(table: Table) -> None:
    for number in range(3):
        table.add(number, IPPROTO_UDP, 15)
        table.expirer.expire()
    assert table.expirer.expired["datagram"] == 3
    assert table.expirer.last is not None
    assert sum(table.expirer.last.expired) == 1
