"""The short circuit of one node: tested, switched, and kept clean while the agent runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from meshd.config import Config
from meshd.dataplane.opening import Opened, link_pins
from meshd.dataplane.pod_network.flow_rows import TupleRow
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.intent import Intent
from meshd.dataplane.short_circuit.leaving import Leaver
from meshd.dataplane.short_circuit.rows import ConnectionRow, PairRow, TotalRow, layouts
from meshd.dataplane.short_circuit.self_test import SelfTest
from meshd.dataplane.short_circuit.splices import Splices
from meshd.dataplane.short_circuit.switchboard import Switchboard
from meshd.errors import KernelError
from meshd.kernel.rcu import wait_for_programs

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Excluded:
    """A workload whose connections stay on TCP because of what it was seen doing; ``cookie`` of its namespace."""

    cookie: int
    what: str
    process: int


class ShortCircuit:
    """``run`` until cancelled; what is in the kernel goes on without it."""

    def __init__(self, config: Config, opened: Opened, wait: Callable[[], None] = wait_for_programs) -> None:
        loaded = opened.loaded
        self.made = layouts(opened.btf)
        self._options = config.short_circuit
        self._maps = loaded.maps
        self._takeover = opened.takeover
        self.intent = Intent(config.state_dir)
        self.switchboard = Switchboard(self.made, loaded.maps, loaded.programs)
        self.leaver = Leaver(self.made, loaded.maps, loaded.programs, wait)
        # Called after each look at what is intended.
        self.applied: Callable[[], None] = lambda: None
        self.splices = Splices(loaded.programs, link_pins(config), self.selected)
        self._untested = "its self-test has not run yet"
        self._turns = asyncio.Lock()

    @property
    def refusal(self) -> str:
        """Why it is off here, whatever is asked for; empty: it can be on."""
        return self._untested or self.splices.refusal

    async def run(self) -> None:
        """Until cancelled. A kernel that decides otherwise than it should, or refuses, keeps everything on TCP."""
        try:
            await self._begin()
        except KernelError as error:
            self._untested = f"the kernel refuses it: {error}"
        if self._untested:
            log.error("short circuit is off", reason=self._untested)
        # Nobody is admitted before somebody watches.
        await asyncio.to_thread(self.splices.look)
        await self._apply_or_say()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.leaver.run())
            tasks.create_task(self.splices.run(self._apply_or_say))

    async def _begin(self) -> None:
        # Rows of connections are not taken over from another layout: they hold where sockets are in the kernel's memory.
        self._takeover.copy((rows.WATCHES, rows.TOTALS))
        self.switchboard.connect()
        await self.leaver.adopt()
        self._takeover.finish((*rows.MAPS, *rows.KERNEL_MAPS))
        failed = await asyncio.to_thread(self._tested)
        self._untested = f"its self-test failed: {failed}" if failed else ""

    async def _apply_or_say(self) -> None:
        try:
            await self.apply()
        except KernelError as error:
            log.error("short circuit cannot be switched", reason=str(error))

    def _tested(self) -> str:
        limits = self._options.queue_bytes, self._options.queue_messages
        return SelfTest(self.made, self._maps, limits).run()

    async def apply(self) -> None:
        """What is intended is in force: the next message of every connection of this node follows it. Switched off, sockets
        leave the map soon after, because they are slower there."""
        try:
            async with self._turns:
                await self._apply(on=self.intent.is_on and not self.refusal)
        finally:
            self.applied()

    async def _apply(self, *, on: bool) -> None:
        if on == self.switchboard.is_on:
            return
        self.switchboard.turn(on=on)
        log.info("short circuit switched", on=on)
        if not on:
            number = next(at for at, name in self.made.causes.items() if name == "switched_off")
            await self.leaver.leave([key for key, _ in self._maps[rows.CONNECTIONS].items()], number)

    def connections(self) -> Iterator[tuple[TupleRow, ConnectionRow]]:
        """Those that are admitted now; it walks the map."""
        for key, value in self._maps[rows.CONNECTIONS].items():
            yield self.made.tuple.decode(key), self.made.connection.decode(value)

    def keys(self) -> list[bytes]:
        """Of those; it walks the map."""
        return list(self._maps[rows.CONNECTIONS].keys())

    def connection(self, key: bytes) -> tuple[TupleRow, ConnectionRow] | None:
        """None: it is not admitted any more."""
        value = self._maps[rows.CONNECTIONS].lookup(key)
        return None if value is None else (self.made.tuple.decode(key), self.made.connection.decode(value))

    def totals(self) -> Iterator[tuple[PairRow, TotalRow]]:
        """What the connections of two workloads were that are over."""
        for key, value in self._maps[rows.TOTALS].items():
            yield self.made.pair.decode(key), self.made.total.decode(value)

    def events(self) -> Counter[str]:
        """What became of connections that were looked at, since the map was made."""
        found: Counter[str] = Counter()
        for key, value in self._maps[rows.EVENTS].items():
            name = self.made.events.get(int.from_bytes(key, "little"))
            if name:
                found[name] = sum(self.made.u64.decode_cpus(value))
        return found

    def selected(self) -> int:
        """How many addresses are selected, this node's own among them."""
        return self._maps[rows.MAPS[0]].count()

    def selected_cookies(self) -> set[int]:
        """Of the namespaces of those."""
        found = self._maps[rows.MAPS[0]].items()
        return {self.made.workload.decode(value).netns_cookie for _, value in found}

    def excluded(self) -> list[Excluded]:
        """Workloads that are kept on TCP."""
        found = []
        for key, value in self._maps[rows.WATCHES].items():
            watch = self.made.watch.decode(value)
            if watch.exclusion:
                what = self.made.exclusions.get(watch.exclusion, str(watch.exclusion))
                found.append(Excluded(self.made.u64.decode(key), what, watch.process))
        return found


def short_circuit_of(config: Config, opened: Opened) -> ShortCircuit | None:
    """None: it is not loaded, by configuration or because the kernel lacks what it needs."""
    if not set(rows.PROGRAMS) <= opened.loaded.programs.keys():
        return None
    try:
        return ShortCircuit(config, opened)
    except KernelError as error:
        log.error("no short circuit", reason=str(error))
        return None
