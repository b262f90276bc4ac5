"""What connections of the short circuit carried, by pair of addresses and in sum: read from the kernel when somebody asks.

A walk decodes every admitted connection. Where that takes longer than a turn of the event loop may, who asks for figures is
told the last result and starts the next walk on a worker thread; nothing is walked while nobody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from meshd.dataplane.short_circuit.circuit import ShortCircuit
from meshd.dataplane.short_circuit.rows import CAUSES, EndRow, SentRow
from meshd.model import Address

# A walk that took longer is made elsewhere the next time.
AT_ONCE_S = 0.002
# bytes, messages, and the same on TCP; then messages on TCP by cause.
BEFORE_CAUSES = 4

Ends = tuple[Address, Address]
Counts = tuple[int, ...]

NOTHING: Counts = (0,) * (BEFORE_CAUSES + CAUSES)


def counts_of(row: EndRow | SentRow) -> Counts:
    """What one end sent."""
    return (row.bytes, row.messages, row.passed_bytes, row.passed_messages, *row.causes)


def added(one: Counts, other: Counts) -> Counts:
    """Both together."""
    if one is NOTHING:
        return other
    return tuple(map(sum, zip(one, other, strict=True)))


@dataclass(slots=True)
class Tally:
    """Of one pair: connections that are admitted now and that are over, and what each side sent."""

    open: int = 0
    closed: int = 0
    sent: tuple[Counts, Counts] = (NOTHING, NOTHING)

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
        joining += bool(row.flags & made.is_joining)
        leaving += bool(row.flags & made.is_leaving)
        tally = pairs.setdefault((Address(ends.source.bytes), Address(ends.destination.bytes)), Tally())
        tally.open += 1
        tally.add(row.ends)
    return Walk(pairs, connections, joining, leaving)


def in_sum(tallies: Iterable[Tally]) -> Counts:
    """What all of them sent."""
    found = NOTHING
    for tally in tallies:
        found = added(found, added(*tally.sent))
    return found


class Sums:
    """The last walk, for figures, and sums that never become less while the agent runs. ``at_once_s``: for so long a walk
    may hold others up."""

    def __init__(self, circuit: ShortCircuit, at_once_s: float = AT_ONCE_S) -> None:
        self._circuit = circuit
        self._at_once_s = at_once_s
        self._last: Walk | None = None
        self._took_s = 0.0
        self._running: asyncio.Task[None] | None = None
        # Of pairs that the kernel has forgotten for want of room.
        self._forgotten = NOTHING
        self._sum = NOTHING

    @property
    def sent(self) -> Counts:
        """What all connections sent that ever were, as of the last walk; while the agent runs it does not go back."""
        return self._sum

    def now(self) -> Walk:
        """As it is, or was when somebody asked last."""
        if self._last is None or self._took_s <= self._at_once_s:
            self._take(*_timed(self._circuit))
        elif self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._walk())
        assert self._last is not None  # noqa: S101 - for mypy: taken above or before
        return self._last

    async def fresh(self) -> Walk:
        """As it is."""
        self._take(*await asyncio.to_thread(_timed, self._circuit))
        assert self._last is not None  # noqa: S101 - for mypy: just taken
        return self._last

    async def _walk(self) -> None:
        await self.fresh()

    def _take(self, found: Walk, took_s: float) -> None:
        before = self._last.pairs if self._last is not None else {}
        gone = in_sum(tally for ends, tally in before.items() if ends not in found.pairs)
        self._forgotten = added(self._forgotten, gone)
        total = added(self._forgotten, in_sum(found.pairs.values()))
        self._sum = tuple(map(max, zip(self._sum, total, strict=True)))
        self._last, self._took_s = found, took_s


def _timed(circuit: ShortCircuit) -> tuple[Walk, float]:
    begun_s = time.monotonic()
    return walk(circuit), time.monotonic() - begun_s
