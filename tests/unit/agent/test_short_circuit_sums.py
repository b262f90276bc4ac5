"""What connections carried, in sum and by pair: nothing twice, and never less than before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

from meshd.agent.short_circuit_sums import BEFORE_CAUSES, Sums, walk
from meshd.dataplane.pod_network.flow_rows import TupleRow
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.dataplane.short_circuit.circuit import ShortCircuit
from meshd.dataplane.short_circuit.rows import CAUSES, ConnectionRow, EndRow, PairRow, SentRow, TotalRow
from meshd.model import parse_address

JOINING, LEAVING, TEST = 1, 2, 4
UNREAD = 4
ONE, TWO, THREE = (parse_address(f"10.1.0.{number}") for number in (1, 2, 3))

Connections = Sequence[tuple[TupleRow, ConnectionRow]]
Totals = Sequence[tuple[PairRow, TotalRow]]


class Kernel:
    """What is in the maps."""

    made = SimpleNamespace(is_joining=JOINING, is_leaving=LEAVING, is_test=TEST)

    def __init__(self, connections: Connections = (), totals: Totals = ()) -> None:
        self.now, self.over = connections, totals

    def connections(self) -> Iterator[tuple[TupleRow, ConnectionRow]]:
        return iter(self.now)

    def totals(self) -> Iterator[tuple[PairRow, TotalRow]]:
        return iter(self.over)

    @property
    def circuit(self) -> ShortCircuit:
        return cast("ShortCircuit", self)


def causes(unread: int) -> tuple[int, ...]:
    return tuple(unread if number == UNREAD else 0 for number in range(CAUSES))


def connection(
    source: bytes, destination: bytes, sent: int, passed: int = 0, flags: int = 0, port: int = 1
) -> tuple[TupleRow, ConnectionRow]:
    """The first end sent so many bytes each way of sending, the second one byte."""
    ends = (
        EndRow(bytes=sent, messages=1, passed_bytes=passed, passed_messages=1, causes=causes(passed)),
        EndRow(bytes=1, messages=1),
    )
    key = TupleRow(AddressRow(source), AddressRow(destination), port, 80, 6)
    return key, ConnectionRow(flags, leaves=0, since_ns=0, ends=ends)


def total(
    first: bytes, second: bytes, sent: int, back: int = 0, connections: int = 1
) -> tuple[PairRow, TotalRow]:
    rows = SentRow(sent, 1, 0, 0, causes(0)), SentRow(back, 0, 0, 0, causes(0))
    return PairRow(AddressRow(first), AddressRow(second)), TotalRow(connections, rows)


def test_a_pair_has_what_is_over_and_what_is_there() -> None:
    kernel = Kernel(
        [
            connection(ONE, TWO, 100, 7),
            connection(ONE, TWO, 10, flags=JOINING | LEAVING, port=2),
            connection(TWO, THREE, 5, flags=JOINING),
            connection(ONE, THREE, 1000, flags=TEST),
        ],
        [total(ONE, TWO, 3, connections=4)],
    )
    found = walk(kernel.circuit)
    assert (found.connections, found.joining, found.leaving) == (3, 1, 1)
    tally = found.pairs[ONE, TWO]
    assert (tally.open, tally.closed) == (2, 4)
    first, second = tally.sent
    assert first[:BEFORE_CAUSES] == (113, 3, 7, 2)
    assert first[BEFORE_CAUSES + UNREAD] == 7
    assert second[:BEFORE_CAUSES] == (2, 2, 0, 0)
    assert (ONE, THREE) not in found.pairs


async def test_the_sum_does_not_go_back_when_the_kernel_forgets_a_pair() -> None:
    kernel = Kernel(totals=[total(ONE, TWO, 100), total(ONE, THREE, 20)])
    sums = Sums(kernel.circuit)
    assert (await sums.fresh()).sent[0] == 120
    kernel.over = [total(ONE, THREE, 21)]
    for _ in range(3):
        assert (await sums.fresh()).sent[0] == 121
    assert set(sums.now().by_pair) == {(ONE, THREE)}
    # Another workload has the address now.
    kernel.over = [total(ONE, TWO, 5), total(ONE, THREE, 21)]
    assert (await sums.fresh()).sent[0] == 126


async def test_what_is_being_moved_from_one_map_to_the_other_counts_once() -> None:
    kernel = Kernel([connection(ONE, TWO, 99)])
    sums = Sums(kernel.circuit)
    await sums.fresh()
    kernel.now = []
    assert (await sums.fresh()).sent[0] == 100
    kernel.over = [total(ONE, TWO, 99, back=1)]
    for _ in range(3):
        assert (await sums.fresh()).sent[0] == 100


async def test_a_short_walk_is_made_at_once() -> None:
    kernel = Kernel([connection(ONE, TWO, 1)])
    sums = Sums(kernel.circuit, at_once_s=1e9)
    assert (sums.now().walk.connections, sums.now().sent[0]) == (1, 2)
    kernel.now = []
    assert sums.now().walk.connections == 0


async def test_a_long_walk_is_made_while_others_go_on_and_its_result_is_told_the_next_time() -> None:
    kernel = Kernel([connection(ONE, TWO, 1)])
    sums = Sums(kernel.circuit, at_once_s=-1)
    assert sums.now().walk.connections == 1
    kernel.now = []
    assert sums.now().walk.connections == 1
    while sums.now().walk.connections:
        await asyncio.sleep(0)
