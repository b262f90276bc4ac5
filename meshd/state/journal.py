"""One append-only file for the objects of one source, so that they outlive the process.

A line of JSON is one put or one delete, in the order in which they happened:

    {"format":1,"source":"api"}
    ["put","Service",{"name":["default","web"],...}]
    ["delete","Service",["api",["default","web"]]]

    ["behind","",null]         newer changes than those above were made, and are not here yet
    ["caught up","",null]      nothing is missing above

Whoever must know that a change is on disk before he answers asks for ``durable``. A crash can leave half a line at the
end: nobody was told that it is on disk, so it is cut off. A line in the middle that cannot be read is named and passed
over. When most of the file is history it is written again from the objects that live, in slices that let the loop run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import structlog

from meshd.errors import JournalError
from meshd.model import (
    BackendSlice,
    Cluster,
    Identity,
    Namespace,
    Node,
    Outage,
    Service,
    ServiceName,
    Workload,
)
from meshd.state.mesh import Object

log = structlog.get_logger(__name__)

FORMAT = 1
SUFFIX = ".journal"
# Written again once it is this many times larger than it was after the last time, and worth the work.
GROWTH = 4
WORTH_BYTES = 64 * 1024
# Lines per turn of the event loop while compacting: below 2 ms.
SLICE_LINES = 500

# The type of ``value.key`` by kind: what a delete names.
KEYS: dict[type, Any] = {  # Any: type forms such as tuple[str, str] have no common type
    Service: tuple[str, ServiceName],
    BackendSlice: tuple[str, ServiceName, str],
    Namespace: tuple[str, str],
    Workload: tuple[str, str, str],
    Identity: tuple[str, str, str],
    Node: tuple[str, str, str],
    Cluster: tuple[str, str],
    Outage: tuple[str, str, str],
}
KINDS = {kind.__name__: kind for kind in KEYS}
BEHIND, CAUGHT_UP = "behind", "caught up"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    format: int
    source: str


class Line(msgspec.Struct, frozen=True, array_like=True):
    """Any other line; ``value`` is an object (put) or a key (delete)."""

    operation: str
    kind: str
    value: msgspec.Raw


class Journal:
    """The journal of ``source`` in ``directory``.

    ``live`` gives the source's objects as they are now, for the compaction; a put that is not in it any more is history.
    Use :meth:`load` once before anything else. All writes are made by one caller at a time.
    """

    def __init__(self, directory: Path, source: str, live: Callable[[], Iterable[Object]]) -> None:
        self.path = path_of(directory, source)
        self.source = source
        self._live = live
        self._file: int | None = None
        self._size = 0
        self._size_when_compacted = 0
        self._broken = False
        self._compacting = False
        # Changes were made that are not in the file; `load` says what the file says.
        self.is_behind = False

    def load(self) -> list[Object]:
        """The objects that lived when the last line was written; the file is ready to be appended to.

        A torn end is cut off. Lines that cannot be read are logged with file and line; the rest counts.

        Raises:
            JournalError: the file cannot be opened, or is another source's or of a format we do not know.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                log.warning(
                    "journal ends in half a line, cut off", path=str(self.path), bytes=len(content) - whole
                )
                os.ftruncate(self._file, whole)
            self._size = whole or self._append(header(self.source))
        except OSError as error:
            raise self._error(error) from error
        self._size_when_compacted = self._size
        return self._read(content[:whole].splitlines())

    async def write(
        self, puts: Iterable[Object], deletes: Iterable[tuple[type, Hashable]], *, durable: bool
    ) -> None:
        """Append one change; with ``durable`` it is on disk when this returns.

        Raises:
            JournalError: it is not there (disk full, device gone); what was there before is.
        """
        await self.append(lines_of(puts, deletes), durable=durable)

    async def append(self, lines: bytes, *, durable: bool) -> None:
        """:meth:`write` for several changes at once, as :func:`lines_of` writes each."""
        if not lines:
            return
        if self._broken or self._size > max(GROWTH * self._size_when_compacted, WORTH_BYTES):
            await self.compact()
        before = self._size
        try:
            self._size += self._append(lines)
            if durable and self._file is not None:
                await asyncio.to_thread(os.fdatasync, self._file)
        except OSError as error:
            self._take_back(before)
            raise self._error(error) from error

    @property
    def can_write_now(self) -> bool:
        """Whether `write_now` may be used: the file is open, whole, and not about to be replaced."""
        return self._file is not None and not self._broken and not self._compacting

    def write_now(self, puts: Iterable[Object], deletes: Iterable[tuple[type, Hashable]]) -> None:
        """Append one change without waiting for the disk and without compacting, where nothing can be awaited any more.

        Raises:
            JournalError: some of it may be there.
        """
        try:
            self._size += self._append(lines_of(puts, deletes))
        except OSError as error:
            raise self._error(error) from error

    def mark(self, *, behind: bool) -> None:
        """Say in the file that changes are missing there from now on, or that none is; repeating it writes nothing.

        Raises:
            JournalError: it is not said.
        """
        if self.is_behind == behind:
            return
        try:
            self._size += self._append(mark_line(behind=behind))
        except OSError as error:
            raise self._error(error) from error
        self.is_behind = behind

    async def compact(self) -> None:
        """Write the file again with the objects that live; the old one stands until the new one is complete on disk.

        Raises:
            JournalError: the new file could not be written; the old one is still in use.
        """
        self._compacting = True
        try:
            await self._compact()
        finally:
            self._compacting = False

    async def _compact(self) -> None:
        scratch = self.path.with_suffix(".new")
        try:
            file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._error(error) from error
        try:
            size = write_all(file, header(self.source))
            live = list(self._live())
            for start in range(0, len(live), SLICE_LINES):
                size += write_all(file, b"".join(map(put_line, live[start : start + SLICE_LINES])))
                await asyncio.sleep(0)
            if self.is_behind:
                size += write_all(file, mark_line(behind=True))
            await asyncio.to_thread(os.fsync, file)
            scratch.replace(self.path)
            await asyncio.to_thread(sync_directory, self.path.parent)
        except BaseException as error:
            os.close(file)
            scratch.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._error(error) from error
            raise
        self.close()
        self._file, self._size, self._size_when_compacted, self._broken = file, size, size, False

    def remove(self) -> None:
        """The source has no objects and no name any more: no file either."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the file back; what was written stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, data: bytes) -> int:
        if self._file is None:
            raise OSError(9, "journal is not loaded")
        return write_all(self._file, data)

    def _take_back(self, size: int) -> None:
        # After a failed fsync nobody knows which pages are on disk: the next write begins with a new file.
        self._broken = True
        self._size = size
        if self._file is not None:
            try:
                os.ftruncate(self._file, size)
            except OSError as error:
                log.error("journal cannot be cut back", path=str(self.path), reason=str(error))

    def _read(self, lines: list[bytes]) -> list[Object]:
        objects: dict[tuple[type, Hashable], Object] = {}
        for number, text in enumerate(lines, start=1):
            try:
                if number == 1:
                    self._check_header(text)
                else:
                    self._replay(objects, text)
            except (msgspec.DecodeError, KeyError, ValueError, TypeError) as error:
                log.error(
                    "journal line cannot be read, passed over",
                    path=str(self.path),
                    line=number,
                    reason=str(error),
                )
        return list(objects.values())

    def _replay(self, objects: dict[tuple[type, Hashable], Object], text: bytes) -> None:
        line = msgspec.json.decode(text, type=Line)
        if line.operation in (BEHIND, CAUGHT_UP):
            self.is_behind = line.operation == BEHIND
            return
        kind = KINDS.get(line.kind)
        if kind is None:
            raise ValueError(f"unknown kind {line.kind!r}")
        if line.operation == "put":
            value: Object = msgspec.json.decode(line.value, type=kind)
            if value.source != self.source:
                raise ValueError(f"an object of source {value.source!r}")
            # Out and in again, so that objects come back in the order of their last change.
            objects.pop((kind, value.key), None)
            objects[kind, value.key] = value
        elif line.operation == "delete":
            objects.pop((kind, msgspec.json.decode(line.value, type=KEYS[kind])), None)
        else:
            raise ValueError(f"unknown operation {line.operation!r}")

    def _check_header(self, text: bytes) -> None:
        found = msgspec.json.decode(text, type=Header)
        if found != Header(FORMAT, self.source):
            raise self._error(f"it is of source {found.source!r}, format {found.format}")

    def _error(self, reason: OSError | str) -> JournalError:
        text = reason if isinstance(reason, str) else reason.strerror or str(reason)
        return JournalError(str(self.path), text)


def path_of(directory: Path, source: str) -> Path:
    """The file of ``source``; any name makes a safe file name."""
    return directory / (quote(source, safe="") + SUFFIX)


def sources_in(directory: Path) -> list[str]:
    """Sources that have a journal in ``directory``; none if there is no such directory."""
    return sorted(unquote(path.name.removesuffix(SUFFIX)) for path in directory.glob("*" + SUFFIX))


def header(source: str) -> bytes:
    """The first line of the journal of ``source``."""
    return msgspec.json.encode(Header(FORMAT, source)) + b"\n"


def lines_of(puts: Iterable[Object], deletes: Iterable[tuple[type, Hashable]]) -> bytes:
    """The lines of one change."""
    return b"".join([*map(put_line, puts), *(delete_line(kind, key) for kind, key in deletes)])


def put_line(value: Object) -> bytes:
    """The line that says that ``value`` is what it is now."""
    return msgspec.json.encode(["put", type(value).__name__, value]) + b"\n"


def delete_line(kind: type, key: Hashable) -> bytes:
    """The line that says that there is no ``kind`` of that key any more."""
    return msgspec.json.encode(["delete", kind.__name__, key]) + b"\n"


def mark_line(*, behind: bool) -> bytes:
    """The line that says whether changes are missing above it."""
    return msgspec.json.encode([BEHIND if behind else CAUGHT_UP, "", None]) + b"\n"


def write_all(file: int, data: bytes) -> int:
    """Append all of ``data``; its length in bytes.

    Raises:
        OSError: some of it may be there.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    return len(data)


def sync_directory(directory: Path) -> None:
    """A rename in ``directory`` is on disk when this returns."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
