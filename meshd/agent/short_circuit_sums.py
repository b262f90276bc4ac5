"""What connections of the short circuit carried, by pair of addresses and in sum: read from the kernel when somebody asks.

A walk decodes every admitted connection. Where that takes longer than a turn of the event loop may, who asks for figures is
told the last result and starts the next walk on a worker thread; nothing is walked while nobody asks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import add

from meshd.dataplane.short_circuit.circuit import ShortCircuit
from meshd.dataplane.short_circuit.rows import CAUSES, EndRow, SentRow
from meshd.model import Address

# A walk that took longer is made elsewhere the next time.
AT_ONCE_S = 0.002
# bytes, messages, and the same on TCP; then messages on TCP by cause.
BEFORE_CAUSES = 4

Ends = tuple[Address, Address]
Counts = tuple[int, ...]
# What the first of a pair sent, and the second.
Sent = tuple[Counts, Counts]

NOTHING: Counts = (0,) * (BEFORE_CAUSES + CAUSES)


def counts_of(row: EndRow | SentRow) -> Counts:
    """What one end sent."""
    return (row.bytes, row.messages, row.passed_bytes, row.passed_messages, *row.causes)


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    if one is NOTHING:
        return other
    return tuple(map(add, one, other))


def most(one: Counts, other: Counts) -> Counts:
    """Of each count the larger one."""
    return tuple(map(max, one, other))


@dataclass(slots=True)
class Tally:
    """Of one pair: connections that are admitted now and that are over, and what each side sent."""

    open: int = 0
    closed: int = 0
    sent: Sent = (NOTHING, NOTHING)

    def add(self, sent: Sequence[EndRow | SentRow]) -> None:
        """What both ends of one or more connections sent."""
        first, second = (added(mine, counts_of(row)) for mine, row in zip(self.sent, sent, strict=True))
        self.sent = first, second


@dataclass(frozen=True, slots=True)
class Walk:
    """What one walk found; ``joining``, ``leaving``: of the ``connections`` that are admitted."""

    pairs: dict[Ends, Tally] = field(default_factory=dict)
    connections: int = 0
    joining: int = 0
    leaving: int = 0


def walk(circuit: ShortCircuit) -> Walk:
    """Totals first: a connection that ends meanwhile is missed for once, and never counted twice."""
    made, pairs = circuit.made, dict[Ends, Tally]()
    for pair, total in circuit.totals():
        tally = pairs.setdefault((Address(pair.first.bytes), Address(pair.second.bytes)), Tally())
        tally.closed += total.connections
        tally.add(total.sent)
    connections = joining = leaving = 0
    for ends, row in circuit.connections():
        if row.flags & made.is_test:
            continue
        connections += 1
        if row.flags & made.is_leaving:
            leaving += 1
        elif row.flags & made.is_joining:
            joining += 1
        tally = pairs.setdefault((Address(ends.source.bytes), Address(ends.destination.bytes)), Tally())
        tally.open += 1
        tally.add(row.ends)
    return Walk(pairs, connections, joining, leaving)


@dataclass(frozen=True, slots=True)
class Summed:
    """``walk``: the last one, and how long it took. ``by_pair`` and ``sent`` (of all pairs that ever were) do not become
    less from one to the next."""

    walk: Walk
    took_s: float
    by_pair: Mapping[Ends, Sent]
    sent: Counts


class Sums:
    """`now` and `fresh`; ``at_once_s``: for so long a walk may hold others up."""

    def __init__(self, circuit: ShortCircuit, at_once_s: float = AT_ONCE_S) -> None:
        self._circuit = circuit
        self._at_once_s = at_once_s
        self._looking = threading.Lock()
        self._last: Summed | None = None
        self._running: asyncio.Task[Summed] | None = None
        # A connection that is moved from one map to the other is seen in neither: who was missed once is not gone.
        self._missed: set[Ends] = set()
        self._gone = NOTHING

    def now(self) -> Summed:
        """As it is, or was when somebody asked last."""
        if self._last is None:
            return self._look()
        if self._last.took_s <= self._at_once_s and not self._looking.locked():
            return self._look()
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self.fresh())
        return self._last

    async def fresh(self) -> Summed:
        """As it is."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Summed:
        with self._looking:
            begun_s = time.monotonic()
            found = walk(self._circuit)
            known = self._merged(found)
            sent = self._gone
            for first, second in known.values():
                sent = added(sent, added(first, second))
            self._last = Summed(found, time.monotonic() - begun_s, known, sent)
            return self._last

    def _merged(self, found: Walk) -> dict[Ends, Sent]:
        known = dict(self._last.by_pair) if self._last is not None else {}
        for ends in known.keys() - found.pairs.keys():
            if ends in self._missed:
                self._gone = added(self._gone, added(*known.pop(ends)))
        self._missed = known.keys() - found.pairs.keys()
        for ends, tally in found.pairs.items():
            before = known.get(ends, (NOTHING, NOTHING))
            first, second = (most(*both) for both in zip(before, tally.sent, strict=True))
            known[ends] = first, second
        return known
