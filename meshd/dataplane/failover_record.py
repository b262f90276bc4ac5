"""The history of failovers on disk, and how many connections were left open at each: what of it has to wait."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock

import msgspec
import structlog

from meshd.dataplane.failover_history import FailoverHistory
from meshd.dataplane.layouts import Layouts
from meshd.dataplane.out_of_reach import pod_ranges
from meshd.errors import KernelError, RowsFailed
from meshd.kernel.maps import Map
from meshd.model import Address
from meshd.model.cluster import REMOTE_PREFIX
from meshd.model.failover_history import Failover
from meshd.state import Mesh

log = structlog.get_logger(__name__)

FILE = "failovers.json"
# Changes of so long are written together.
WRITE_S = 0.2
# For so long services may take to move until connections are counted all the same.
MOVED_S = 5.0

Range = tuple[Address, Address]


def load(directory: Path) -> list[Failover]:
    """What an earlier process wrote, the oldest first; none where the file is missing, or cannot be read (logged)."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Failover])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        log.error("history of failovers cannot be read, begun anew", path=str(path), reason=str(error))
        return []


def save(directory: Path, failovers: Sequence[Failover]) -> None:
    """The file is as a whole what it was before, or this.

    Raises:
        OSError: it is what it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = (directory / FILE).with_suffix(".new")
    with partial.open("wb") as file:
        file.write(msgspec.json.encode(failovers))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / FILE)


def count_connections(
    layouts: Layouts, connections: Iterable[tuple[bytes, bytes]], ranges: list[Range]
) -> int:
    """How many of the rows of map `connections` are of sockets whose backend's address is in one of ``ranges``."""
    # struct connection: the netns cookie, then frontend and backend, which begin with their addresses; compared packed.
    start = 8 + layouts.endpoint.size
    found = 0
    for _, value in connections:
        address = value[start : start + 16]
        found += any(first <= address <= last for first, last in ranges)
    return found


class FailoverRecord:
    """Keeps ``history`` in ``directory``. ``connections``: the map of that name."""

    def __init__(
        self, mesh: Mesh, history: FailoverHistory, directory: Path, layouts: Layouts, connections: Map
    ) -> None:
        self._mesh = mesh
        self._history = history
        self._directory = directory
        self._layouts = layouts
        self._connections = connections
        # The last writing, at the end, may meet one that a worker thread is still at.
        self._writing = Lock()

    async def run(self) -> None:
        """Until cancelled; what changed last is written at the end."""
        try:
            while True:
                await self._history.changed.wait()
                await self._count()
                await asyncio.sleep(WRITE_S)
                self._history.changed.clear()
                await asyncio.to_thread(self._write, self._history.failovers)
        finally:
            if self._history.changed.is_set():
                self._write(self._history.failovers)

    def _write(self, failovers: Sequence[Failover]) -> None:
        try:
            with self._writing:
                save(self._directory, failovers)
        except OSError as error:
            path = str(self._directory / FILE)
            log.warning("history of failovers not written, kept in memory", path=path, reason=str(error))

    async def _count(self) -> None:
        """Once new connections go elsewhere, those that are left are still open, and grow no more in number."""
        uncounted = self._history.uncounted()
        if not uncounted:
            return
        try:
            async with asyncio.timeout(MOVED_S):
                await self._mesh.settled(self._mesh.revision)
        except (TimeoutError, RowsFailed):
            pass  # services that are not written say so themselves
        for number, each in uncounted.items():
            ranges = list(self._ranges(each))
            try:
                found = await asyncio.to_thread(
                    count_connections, self._layouts, self._connections.items(), ranges
                )
            except KernelError as error:
                log.warning("connections cannot be counted", cluster=each.cluster, reason=str(error))
                return
            self._history.count(number, found)

    def _ranges(self, one: Failover) -> Iterable[Range]:
        source = REMOTE_PREFIX + one.cluster
        for name in one.nodes:
            node = self._mesh.nodes.get((source, one.cluster, name))
            if node is not None:
                yield from pod_ranges(node)
