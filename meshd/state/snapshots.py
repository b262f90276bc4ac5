"""What each source said last, on disk, for the start after a reboot, when the kernel holds nothing either.

One journal a source (``state/journal.py``), never waiting for the disk, since the source itself knows better as soon as it
is reached. A small change is handed to the operating system before the kernel's maps follow it, so that an agent that is
killed leaves no journal older than its maps; a large one is written behind the mesh, at most ``FLUSH_S`` later, and until
then the journal says of itself that it is behind: a start that finds newer maps in the kernel does not believe it. The
journal of source ``api`` is another matter: it is the only place where its objects are kept, so ``api`` writes its own,
before it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterator
from itertools import islice
from pathlib import Path

import structlog

from meshd.errors import JournalError
from meshd.state.journal import SLICE_LINES, Journal, sources_in
from meshd.state.mesh import Mesh, Object

log = structlog.get_logger(__name__)

FLUSH_S = 0.2
# Objects of a change that is written before anything else happens: some 10 us each. Sources hand over larger lists in parts.
SMALL_CHANGE = 1024
# After a failed write; the disk may be full for long.
RETRY_S = 5.0

# The newest value of each object that is not written yet; None: deleted.
Unwritten = dict[tuple[type, Hashable], Object | None]


class Snapshots:
    """Journals of all sources but those in ``without``, in ``directory``.

    ``restore`` once, then ``run`` until cancelled; what changed since the last flush is written at the end.
    """

    def __init__(self, mesh: Mesh, directory: Path, without: Collection[str] = ("api",)) -> None:
        self._mesh = mesh
        self._directory = directory
        self._without = frozenset(without)
        self._journals: dict[str, Journal] = {}
        self._unwritten: dict[str, Unwritten] = {}
        # Journals with lines of an earlier process that nobody asked to restore: history once the source has listed.
        self._outdated: set[str] = set()
        # The source whose older changes are being written.
        self._writing = ""
        # The source whose own lines the mesh tells us of: they are on disk already.
        self._restoring = ""
        self._changed = asyncio.Event()
        mesh.observe(self._observe)

    def restore(
        self, only: Collection[str] | None = None, held: Collection[str] = frozenset()
    ) -> dict[str, int]:
        """Put what the journals hold in force; source -> number of objects.

        ``only``: these sources (default: all that have a journal). Each is restored (Mesh.restore): what it said stands
        until it has listed. A journal that cannot be read is logged and left out, and so is one that was behind when its
        agent was killed, if the kernel has kept rows of that source (``held``): they are newer, and stand.
        """
        restored: dict[str, int] = {}
        for source in sources_in(self._directory):
            if source in self._without or (only is not None and source not in only):
                continue
            try:
                objects = self._journal(source).load()
            except JournalError as error:
                log.error("snapshot of a source cannot be read", source=source, reason=str(error))
                del self._journals[source]
                continue
            if source in held and self._journals[source].is_behind:
                log.warning("snapshot of a source is older than the kernel's rows, left out", source=source)
                self._outdated.add(source)
                self._mesh.listing(source)
                continue
            self._restoring = source
            self._mesh.restore(source, objects)
            self._restoring = ""
            restored[source] = len(objects)
        return restored

    async def run(self) -> None:
        """Write behind the mesh until cancelled."""
        try:
            while True:
                await self._changed.wait()
                await asyncio.sleep(FLUSH_S)
                if not await self.flush():
                    await asyncio.sleep(RETRY_S)
        finally:
            self._write_at_exit()
            for journal in self._journals.values():
                journal.close()

    async def flush(self) -> bool:
        """Write what changed so far. False: some of it could not be written (logged) and is kept for the next time."""
        self._changed.clear()
        written = True
        for source in list(self._unwritten):
            unwritten = self._unwritten.pop(source)
            self._writing = source
            try:
                await self._write(source, unwritten)
            except (JournalError, asyncio.CancelledError) as error:
                # What came meanwhile is newer.
                self._unwritten[source] = unwritten | self._unwritten.get(source, {})
                if not isinstance(error, JournalError):
                    raise
                log.warning("snapshot of a source not written, retrying", source=source, reason=str(error))
                self._changed.set()
                written = False
            finally:
                self._writing = ""
        return written

    async def _write(self, source: str, unwritten: Unwritten) -> None:
        journal = self._opened(source)
        if source in self._outdated and self._mesh.is_complete(source):
            await journal.compact()
            self._outdated.discard(source)
        for part in slices(unwritten):
            puts = [value for value in part.values() if value is not None]
            deletes = [key for key, value in part.items() if value is None]
            await journal.write(puts, deletes, durable=False)
            await asyncio.sleep(0)
        if source not in self._outdated and not self._unwritten.get(source):
            journal.mark(behind=False)
        if source not in self._mesh.sources and not any(True for _ in self._live(source)):
            journal.remove()
            del self._journals[source]

    def _opened(self, source: str) -> Journal:
        journal = self._journals.get(source)
        if journal is None:
            journal = self._journal(source)
            if journal.load():
                self._outdated.add(source)
        return journal

    def _write_at_exit(self) -> None:
        # What cannot be written now is asked of its source at the next start.
        for source, unwritten in self._unwritten.items():
            puts = [value for value in unwritten.values() if value is not None]
            deletes = [key for key, value in unwritten.items() if value is None]
            try:
                if unwritten:
                    journal = self._opened(source)
                    journal.write_now(puts, deletes)
                    if source not in self._outdated:
                        journal.mark(behind=False)
            except JournalError as error:
                log.warning("snapshot of a source not written", source=source, reason=str(error))

    def _journal(self, source: str) -> Journal:
        journal = Journal(self._directory, source, live=lambda: self._live(source))
        self._journals[source] = journal
        return journal

    def _live(self, source: str) -> Iterator[Object]:
        return self._mesh.objects_of(source)

    def _observe(self, source: str, puts: list[Object], deletes: list[tuple[type, Hashable]]) -> None:
        if source in self._without or source == self._restoring:
            return
        unwritten = self._unwritten.setdefault(source, {})
        self._changed.set()
        if not self._write_now(source, puts, deletes):
            unwritten.update({(type(value), value.key): value for value in puts})
            unwritten.update(dict.fromkeys(deletes))

    def _write_now(self, source: str, puts: list[Object], deletes: list[tuple[type, Hashable]]) -> bool:
        """Append a small change at once, if nothing older of the same source is waiting."""
        waiting = bool(self._unwritten.get(source)) or source == self._writing
        try:
            journal = self._opened(source)
            small = not waiting and len(puts) + len(deletes) <= SMALL_CHANGE
            if not small or source in self._outdated or not journal.can_write_now:
                journal.mark(behind=True)
                return False
            journal.write_now(puts, deletes)
        except JournalError as error:
            log.warning("snapshot of a source not written, retrying", source=source, reason=str(error))
            return False
        return True


def slices(unwritten: Unwritten) -> Iterator[Unwritten]:
    """``unwritten`` in parts that are short enough for one turn of the event loop."""
    items = iter(unwritten.items())
    while part := dict(islice(items, SLICE_LINES)):
        yield part
