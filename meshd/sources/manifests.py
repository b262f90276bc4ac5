"""Source ``manifests``: a directory of Kubernetes YAML and JSON, watched.

The files directly in it are read in the order of their names; hidden ones and editors' copies are not. Whatever is wrong
with a document costs that document only: it is listed by ``problems``, and the last good version stays in force. A
directory that is missing or cannot be read is out of reach, which is something else than empty.

A restart is no exception. What the mesh still holds of this source from before (the snapshot on disk) is the last good
version of a document that is broken now, and the list is complete, so that the rest of it may go, only when every
document of every file could be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Hashable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import structlog

from meshd.sources import revisions
from meshd.sources.directory_watch import Changed, DirectoryWatch
from meshd.sources.in_force import InForce
from meshd.sources.kubernetes.objects import Context, Value, object_name
from meshd.sources.kubernetes.types import ObjectName
from meshd.sources.manifest_file import FileVersion, Problem, next_version, unreadable
from meshd.sources.manifest_reading import Contents, Refused, Signature, is_manifest, read_changed
from meshd.state import Mesh

SOURCE = "manifests"
# How long the event loop may be held up.
SLICE_S = 0.004
PROBLEMS_LOGGED = 20

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Manifests:
    """The objects in ``directory`` that concern ``cluster`` and ``node``, kept current in ``mesh`` while ``run`` runs."""

    def __init__(self, mesh: Mesh, directory: Path, cluster: str, node: str) -> None:
        self._mesh = mesh
        self._directory = directory
        self._context = Context(SOURCE, cluster, node)
        self._in_force = InForce()
        self._signatures: dict[str, Signature] = {}
        self._unread: set[str] = set()
        self._complete = False
        self._missing = ""
        self._before_the_start: dict[ObjectName, Value] | None = None
        self._logged: set[Problem] = set()
        self._turn_began = perf_counter()

    def problems(self) -> list[Problem]:
        """What is not in force as it stands in the files, by file and line; line 0 is about the file or directory."""
        whole = (
            [Problem(str(self._directory), 0, "directory", "file", self._missing)] if self._missing else []
        )
        return whole + self._in_force.problems()

    async def run(self) -> None:
        """Read everything, then whatever changes, until cancelled."""
        self._mesh.listing(SOURCE)
        with DirectoryWatch(self._directory, is_manifest) as watch:
            while True:
                changed = await watch.changed()
                self._turn_began = perf_counter()
                if changed.missing:
                    self._out_of_reach(changed.missing)
                else:
                    await self._read(changed, watch)

    # Reading

    async def _read(self, changed: Changed, watch: DirectoryWatch) -> None:
        names: frozenset[str] | None = changed.names
        known = dict[str, Signature | None]()
        if changed.everything:
            names = None
            known = {file: self._signatures.get(file) for file in self._in_force.files}
        try:
            found = await asyncio.to_thread(read_changed, self._directory, names, known)
        except OSError as error:
            self._out_of_reach(f"cannot be listed: {error.strerror}")
            return
        if watch.is_lost():
            return  # reported next, and everything after it
        changes: list[tuple[str, FileVersion | None]] = []
        for file, contents in found.files.items():
            if watch.is_being_written(file):
                self._unread.add(file)  # reported again when it is closed
                continue
            self._unread.discard(file)
            changes.append((file, await self._version(file, contents)))
        await self._write(changes)
        self._in_reach()
        await self._finish()

    async def _version(self, file: str, contents: Contents | Refused | None) -> FileVersion | None:
        before = self._in_force.version(file)
        if contents is None:
            self._signatures.pop(file, None)
            return None
        if isinstance(contents, Refused):
            self._signatures.pop(file, None)
            return unreadable(file, 0, contents.reason, before)
        self._signatures[file] = contents.signature
        version = next_version(file, contents.text, before, self._context, self._from_before_the_start)
        return await self._in_turns(version)

    def _from_before_the_start(self, name: ObjectName) -> Value | None:
        """The last good version of an object that no file of this process ever gave, as far as the mesh has one."""
        if self._complete:
            return None
        if self._before_the_start is None:
            self._before_the_start = {object_name(value): value for value in self._values()}
        return self._before_the_start.get(name)

    def _values(self) -> Iterator[Value]:
        mesh = self._mesh
        tables: tuple[Iterable[Value], ...] = (
            mesh.services.values(),
            mesh.slices.values(),
            mesh.namespaces.values(),
            mesh.nodes.values(),
            mesh.workloads.values(),
        )
        return (value for table in tables for value in table if value.source == SOURCE)

    # Writing

    async def _write(self, changes: list[tuple[str, FileVersion | None]]) -> None:
        """Put what ``changes`` bring into force: one revision, unless they are very many."""
        puts: dict[ObjectName, Value] = {}
        deletes: set[tuple[type, Hashable]] = set()
        for file, version in changes:
            for change in self._in_force.update(file, version):
                await self._turn()
                if change is not None and change.before is not None:
                    puts.pop(object_name(change.before), None)
                    deletes.add((type(change.before), change.before.key))
                if change is not None and change.after is not None:
                    puts[object_name(change.after)] = change.after
                    deletes.discard((type(change.after), change.after.key))
        await revisions.apply(self._mesh, SOURCE, puts.values(), deletes)

    async def _finish(self) -> None:
        """Say how complete the list is, and log what is newly wrong."""
        self._log_problems()
        if self._unread:
            return
        unidentified = self._in_force.unidentified()
        if unidentified and not self._complete:
            self._mesh.mark_stale(
                SOURCE, f"{unidentified[0]}; until it can be read nothing else is taken as gone"
            )
            return
        if not self._complete:
            await self._drop_what_no_file_names()
            log.info("manifests read", directory=str(self._directory), files=len(self._in_force.files))
        self._complete = True
        self._before_the_start = None
        self._mesh.mark_complete(SOURCE)

    async def _drop_what_no_file_names(self) -> None:
        gone: list[tuple[type, Hashable]] = []
        for value in list(self._values()):
            await self._turn()
            current = self._in_force.value(object_name(value))
            if current is None or current.key != value.key:
                gone.append((type(value), value.key))
        await revisions.apply(self._mesh, SOURCE, [], gone)

    def _out_of_reach(self, reason: str) -> None:
        self._missing = reason
        self._mesh.mark_stale(SOURCE, f"{self._directory}: {reason}")
        log.warning(
            "manifests out of reach; what they said stands", directory=str(self._directory), reason=reason
        )

    def _in_reach(self) -> None:
        if self._missing:
            log.info("manifests are back", directory=str(self._directory))
        self._missing = ""

    def _log_problems(self) -> None:
        problems = set(self._in_force.problems())
        new = sorted(problems - self._logged)
        for problem in new[:PROBLEMS_LOGGED]:
            log.warning(
                "manifest not used",
                file=problem.file,
                line=problem.line,
                object=problem.object_name,
                field=problem.field,
                reason=problem.reason,
            )
        if len(new) > PROBLEMS_LOGGED:
            log.warning("more manifests not used", count=len(new) - PROBLEMS_LOGGED)
        self._logged = problems

    # Letting others work

    async def _turn(self) -> None:
        if perf_counter() - self._turn_began > SLICE_S:
            await asyncio.sleep(0)
            self._turn_began = perf_counter()

    async def _in_turns(self, work: Generator[None, None, T]) -> T:
        while True:
            try:
                next(work)
            except StopIteration as ended:
                result: T = ended.value
                return result
            await self._turn()
