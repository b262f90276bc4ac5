"""Takes sockets out of the map again, so that nothing is lost and nobody notices.

Deleting an entry drops what its queue holds, and a message that is being handed over would fail. So first a flag forbids
that any more is handed over, in both directions; the programs that may have read the old one end; then it is waited until
no call that was begun before is under way and both queues are read; and only then the entries go. What calls hold a socket,
the kernel counts (sk_psock.refcnt), so that is known, not guessed. One moment without a call is enough, on each socket at
another time: what begins later knows of the flag. So a stream that never stops leaves within some tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from socket import IPPROTO_TCP

import structlog

from meshd.dataplane.pod_network.flow_rows import TupleRow
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.rows import CheckRow, EndRow, KeyRow, Layouts
from meshd.errors import KernelError
from meshd.kernel.maps import NOEXIST, Map
from meshd.kernel.program import Program
from meshd.kernel.ringbuf import Drained, RingBuffer

log = structlog.get_logger(__name__)

# Between two looks at queues that are not read yet.
FIRST_S, LAST_S = 0.005, 1.0
# A socket that turned blocking may be within a call for as long as nobody sends: then it is taken out all the same. Whoever
# was sending when the flag was set has long ended.
READING_S = 1.0
# For what nobody told us of.
LOOK_S = 10.0
_LINK_ADDRESSES = 14  # of an Ethernet frame


@dataclass(slots=True)
class Waiting:
    """A connection that is leaving; ``row``: what it was when that was seen first.

    ``ended``: of each socket, whether all calls have ended that had begun before.
    """

    row: rows.ConnectionRow
    ended: tuple[bool, ...] = (False, False)
    since_s: float = field(default_factory=time.monotonic)
    pause_s: float = FIRST_S
    next_s: float = 0.0


class Leaver:
    """``wait_for_programs`` blocks until every program that runs now has ended."""

    def __init__(
        self,
        made: Layouts,
        maps: Mapping[str, Map],
        programs: Mapping[str, Program],
        wait_for_programs: Callable[[], None],
    ) -> None:
        self._made = made
        self._maps = maps
        self._programs = programs
        self._wait_for_programs = wait_for_programs
        # Connections that are to be taken out, by the key of their row.
        self.waiting: dict[bytes, Waiting] = {}
        self._told = asyncio.Event()
        # Connections whose sockets were taken out.
        self.left = 0

    async def run(self) -> None:
        """Until cancelled."""
        ring = RingBuffer(self._maps[rows.LEAVING], self._made.tuple.size)
        loop = asyncio.get_running_loop()
        ring.watch(loop, self._hear)
        next_look_s = 0.0
        try:
            while True:
                if time.monotonic() >= next_look_s:
                    next_look_s = time.monotonic() + LOOK_S
                    try:
                        await self.look()
                    except KernelError as error:
                        log.warning(
                            "short-circuited sockets cannot be looked at, tried again", reason=str(error)
                        )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s(next_look_s)):
                        await self._told.wait()
                self._told.clear()
                try:
                    await self.step()
                except KernelError as error:
                    log.warning("sockets cannot be taken out, tried again", reason=str(error))
        finally:
            ring.unwatch(loop)
            ring.close()

    async def adopt(self) -> None:
        """Sockets whose row another build kept in another layout get one again, and nothing of theirs is lost."""
        await asyncio.to_thread(self._adopt)

    def _adopt(self) -> None:
        entries = {self._made.key.decode(key) for key, _ in self._maps[rows.SOCKETS].items()}
        known = set(self._maps[rows.CONNECTIONS].keys())
        ends = {(each.local, each.remote, each.local_port, each.remote_port): each for each in entries}
        for one in entries:
            other = ends.get((one.remote, one.local, one.remote_port, one.local_port))
            if other is None or (one.local, one.local_port) > (other.local, other.local_port):
                continue
            key = self._made.tuple.encode(TupleRow(*one[:4], IPPROTO_TCP))
            if key not in known:
                pair = (EndRow(netns_cookie=one.netns_cookie), EndRow(netns_cookie=other.netns_cookie))
                # As long as it does not say where sockets are, nothing is handed over.
                row = rows.ConnectionRow(0, 0, time.monotonic_ns(), pair)
                with contextlib.suppress(KernelError):  # admitted meanwhile
                    self._maps[rows.CONNECTIONS].update(key, self._made.connection.encode(row), NOEXIST)
                    self._programs[rows.ADOPT].test_run(bytes(_LINK_ADDRESSES) + key)

    async def look(self) -> None:
        """Finds every connection that is leaving or whose sockets are gone; what was lost in the ring is found here."""
        # Anybody can forge the reset that ends a row; the sockets take no notice of it.
        await self.adopt()
        found = await asyncio.to_thread(lambda: list(self._maps[rows.CONNECTIONS].items()))
        for key, value in found:
            row = self._made.connection.decode(value)
            if row.flags & self._made.is_leaving or self._is_gone(key, row):
                self.waiting.setdefault(key, Waiting(row))

    async def leave(self, keys: Iterable[bytes], cause: int) -> None:
        """Sends connections back to TCP: rows of the map of connections."""
        for key, row in await asyncio.to_thread(lambda: list(self._forbidden(keys, cause))):
            self.waiting.setdefault(key, Waiting(row))
        self._told.set()

    def _forbidden(self, keys: Iterable[bytes], cause: int) -> Iterator[tuple[bytes, rows.ConnectionRow]]:
        for key in keys:
            value = self._maps[rows.CONNECTIONS].lookup(key)
            if value is None:
                continue
            row = self._made.connection.decode(value)
            if not row.flags & self._made.is_leaving:
                self._forbid(key, cause)
            yield key, row

    def _forbid(self, key: bytes, cause: int) -> None:
        """In the kernel, where messages go on to be counted in the same row."""
        check = CheckRow(self._made.tuple.decode(key), (0, 0), (0, 0), cause)
        self._programs[rows.ASK].test_run(context=self._made.check.encode(check))

    def _hear(self, drained: Drained) -> None:
        size = self._made.tuple.size
        for at in range(0, drained.count * size, size):
            key = drained.data[at : at + size]
            value = self._maps[rows.CONNECTIONS].lookup(key)
            if value is not None:
                self.waiting.setdefault(key, Waiting(self._made.connection.decode(value)))
        self._told.set()

    def _pause_s(self, next_look_s: float) -> float:
        soonest = min((each.next_s for each in self.waiting.values()), default=next_look_s)
        return max(min(soonest, next_look_s) - time.monotonic(), 0.001)

    async def step(self) -> None:
        """One look at all that are due."""
        now = time.monotonic()
        due = {key: each for key, each in self.waiting.items() if each.next_s <= now}
        if not due:
            return
        gone = await asyncio.to_thread(self._taken_out, due)
        for key, each in due.items():
            if key in gone:
                del self.waiting[key]
                continue
            each.pause_s = min(each.pause_s * 2, LAST_S)
            each.next_s = time.monotonic() + each.pause_s

    def _taken_out(self, due: Mapping[bytes, Waiting]) -> set[bytes]:
        """Those of ``due`` that have left. It blocks."""
        # Messages that were decided about before the flag was there are within a call by now, and counted.
        self._wait_for_programs()
        gone = set()
        for key, each in due.items():
            value = self._maps[rows.CONNECTIONS].lookup(key)
            if value is None:
                # Both ends have said goodbye. Bytes may wait still, and the sockets go by themselves.
                gone.add(key)
                continue
            row = self._made.connection.decode(value)
            is_gone = self._is_gone(key, row)
            if not row.flags & self._made.is_leaving and not is_gone:
                # Another connection has the same ends by now: what is handed over in it was never forbidden.
                gone.add(key)
            elif row.since_ns != each.row.since_ns:
                # It leaves as well, and nothing is known of its calls.
                each.row, each.ended, each.since_s = row, (False, False), time.monotonic()
            elif is_gone or self._is_quiet(self._check(key), each):
                self._take_out(key, each.row)
                gone.add(key)
        return gone

    def _is_quiet(self, check: CheckRow, waiting: Waiting) -> bool:
        waiting.ended = tuple(
            before or not calls for before, calls in zip(waiting.ended, check.senders, strict=True)
        )
        if any(check.waiting):
            return False
        return all(waiting.ended) or time.monotonic() - waiting.since_s > READING_S

    def _check(self, key: bytes) -> CheckRow:
        asked = CheckRow(self._made.tuple.decode(key), (0, 0), (0, 0), 0)
        run = self._programs[rows.CHECK].test_run(context=self._made.check.encode(asked))
        return self._made.check.decode(run.context)

    def _take_out(self, key: bytes, row: rows.ConnectionRow) -> None:
        for socket_key in self.socket_keys(self._made.tuple.decode(key), row):
            self._maps[rows.SOCKETS].delete(socket_key)
        forgotten = CheckRow(self._made.tuple.decode(key), (0, 0), (0, 0), 0)
        self._programs[rows.FORGET].test_run(context=self._made.check.encode(forgotten))
        self.left += 1

    def _is_gone(self, key: bytes, row: rows.ConnectionRow) -> bool:
        """Whether neither socket is in the map: they are closed, and nobody saw how."""
        if row.flags & self._made.is_joining:
            return False
        keys = self.socket_keys(self._made.tuple.decode(key), row)
        return all(self._maps[rows.SOCKETS].lookup(each) is None for each in keys)

    def socket_keys(self, ends: TupleRow, row: rows.ConnectionRow) -> tuple[bytes, bytes]:
        """The keys of both sockets of a connection."""
        first = KeyRow(
            ends.source, ends.destination, ends.source_port, ends.destination_port, row.ends[0].netns_cookie
        )
        second = KeyRow(
            ends.destination, ends.source, ends.destination_port, ends.source_port, row.ends[1].netns_cookie
        )
        return self._made.key.encode(first), self._made.key.encode(second)
