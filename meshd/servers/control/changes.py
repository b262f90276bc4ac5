"""Changes that callers make: on disk first, in force then, answered last.

All changes go through one queue, so the journal and the mesh see them in the same order. Those that arrive while the disk
is busy are written together and share its next fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

from meshd.errors import MeshError
from meshd.servers.control.requests import SOURCE
from meshd.state import Mesh
from meshd.state.journal import Journal, lines_of
from meshd.state.mesh import Object


def nothing_to_check() -> None:
    """Of a change that nothing forbids."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a caller wants. ``check`` raises MeshError if the mesh, as it is when the change's turn comes, forbids it."""

    puts: tuple[Object, ...] = ()
    deletes: tuple[tuple[type, Hashable], ...] = ()
    check: Callable[[], None] = field(default=nothing_to_check)


class Changes:
    """The objects of source "api": :meth:`load` at the start, then :meth:`run` until cancelled."""

    def __init__(self, mesh: Mesh, directory: Path) -> None:
        self._mesh = mesh
        self._journal = Journal(directory, SOURCE, live=lambda: mesh.objects_of(SOURCE))
        self._queue: asyncio.Queue[tuple[Change, asyncio.Future[int]]] = asyncio.Queue()

    def load(self) -> int:
        """Put in force what the journal holds; how many objects. The source is complete: nobody else knows more.

        Raises:
            JournalError: the journal cannot be opened.
        """
        objects = self._journal.load()
        self._mesh.replace(SOURCE, objects)
        return len(objects)

    async def make(self, change: Change) -> int:
        """The revision at which ``change`` is in force; it is on disk too. A caller who is cancelled
        before the change's turn has come takes it back, later he does not.

        Raises:
            MeshError: the change's own check, or JournalError; nothing was changed.
        """
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((change, outcome))
        return await outcome

    async def run(self) -> None:
        """Make the changes that are asked for, until cancelled."""
        try:
            while True:
                batch = [await self._queue.get()]
                while not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._commit(
                    [(change, outcome) for change, outcome in batch if allowed(change, outcome)]
                )
        finally:
            self._journal.close()
            while not self._queue.empty():
                self._queue.get_nowait()[1].cancel()

    async def _commit(self, batch: list[tuple[Change, asyncio.Future[int]]]) -> None:
        try:
            lines = b"".join(lines_of(change.puts, change.deletes) for change, _ in batch)
            await self._journal.append(lines, durable=True)
        except MeshError as error:
            for _, outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, outcome in batch:
                outcome.cancel()
            raise
        for change, outcome in batch:
            revision = self._mesh.apply(SOURCE, change.puts, change.deletes)
            if not outcome.done():
                outcome.set_result(revision)


def allowed(change: Change, outcome: asyncio.Future[int]) -> bool:
    """Whether the change's check passes; else its caller knows why not."""
    if outcome.done():
        return False
    try:
        change.check()
    except MeshError as error:
        outcome.set_exception(error)
        return False
    return True
