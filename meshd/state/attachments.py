"""Which interface has which address, on disk before anybody is told: an address is never given twice.

One append-only file, as `journal.py` has one for each source; a line is a change:

    {"format":1}
    ["attached",{"container_id":...,"addresses":[...]}]
    ["released",["CONTAINER","eth0"],1764000000.5]
    ["cooling","CgEBCg==",1764000000.5]             only in a file that was written again

A release need not be on disk before it is answered: what a crash makes us forget of it keeps an address taken, and the
next start finds that nobody uses it. A released address is given to nobody for a while, in wall-clock time because the
while may include a reboot, so that whoever still speaks to its last holder does not reach a stranger.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from meshd.errors import AddressesExhausted, JournalError
from meshd.model.address import Address
from meshd.model.address_pool import AddressRange
from meshd.model.attachment import Attachment, AttachmentKey
from meshd.state.holdings import Holdings
from meshd.state.journal import sync_directory, write_all

log = structlog.get_logger(__name__)

HEADER = b'{"format":1}\n'
# Written again once it is this many times larger than it was after the last time, and worth the work.
GROWTH = 2
WORTH_BYTES = 64 * 1024


class Attachments:
    """The attachments of this node; `load` once before anything else.

    ``clock`` gives Unix time; ``sync`` makes a file's content outlive a power cut (both are the operating system's).
    """

    def __init__(
        self,
        path: Path,
        ranges: Sequence[AddressRange] = (),
        cool_down_s: float = 0.0,
        *,
        clock: Callable[[], float] = time.time,
        sync: Callable[[int], None] = os.fdatasync,
        worth_bytes: int = WORTH_BYTES,
    ) -> None:
        self.path = path
        self._clock = clock
        self._sync = sync
        self._worth_bytes = worth_bytes
        self._holdings = Holdings(ranges, cool_down_s)
        self._file = -1
        self._size = 0
        self._size_when_written = 0
        self._broken = False
        # Lines appended while the file is being written again.
        self._behind: list[bytes] | None = None
        # Changes so far: appended, and of these certainly on disk.
        self._appended = 0
        self._durable = 0
        self._committing: asyncio.Task[None] | None = None

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment of that container and interface."""
        return self._holdings.get(key)

    def all(self) -> list[Attachment]:
        """Every attachment, the oldest first."""
        return self._holdings.all()

    def of_pod(self, namespace: str, name: str) -> list[Attachment]:
        """The attachments of one pod, the oldest first."""
        return self._holdings.of_pod(namespace, name)

    def holds(self, address: Address) -> bool:
        """Whether some attachment has ``address``."""
        return self._holdings.holds(address)

    def avoid(self, addresses: Iterable[Address]) -> None:
        """Pods that are none of ours have ``addresses``, and no others: they are given to nobody."""
        self._holdings.avoid(addresses)

    def knows(self, address: Address) -> bool:
        """Whether some attachment has ``address``, or had it until lately."""
        return self._holdings.knows(address)

    def exhausted(self) -> AddressesExhausted | None:
        """Why another pod could not have an address of each family; None: it could."""
        try:
            self._holdings.choose((), self._clock())
        except AddressesExhausted as error:
            return error
        return None

    def load(self) -> None:
        """Read the file, cut off a torn end, and be ready. A line that cannot be read is named and passed over.

        Raises:
            JournalError: it cannot be opened, or is of a format we do not know.
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
            self._size = whole or write_all(self._file, HEADER)
            # What an earlier process appended and answered for is on disk; what it only appended is from here on.
            self._sync(self._file)
            sync_directory(self.path.parent)
        except OSError as error:
            raise self._error(error) from error
        self._size_when_written = self._size
        self._replay(content[:whole].splitlines(keepends=True))

    def attach(self, wanted: Attachment, asked: Iterable[Address] = ()) -> Attachment:
        """``wanted`` with an address of each family that the node has ranges for, those ``asked`` for among them; a chained
        one as it is. From here on it survives the process; :meth:`durable` says when it survives the machine.

        Raises:
            AddressesExhausted, AddressRefused, JournalError: nothing was changed.
        """
        made = wanted
        if not wanted.chained:
            made = replace(wanted, addresses=self._holdings.choose(tuple(asked), self._clock()))
        self._append(attached_line(made))
        self._holdings.hold(made)
        return made

    def release(self, key: AttachmentKey) -> Attachment | None:
        """Forget an attachment: its addresses cool down from now on. None: there is no such attachment.

        Raises:
            JournalError: it is as it was.
        """
        found = self._holdings.get(key)
        if found is not None:
            now = self._clock()
            self._append(line(["released", key, now]))
            self._holdings.let_go(key, now)
        return found

    async def durable(self) -> None:
        """Until all that was changed so far survives a power cut. Callers that wait at once share the way to the disk.

        Raises:
            JournalError: it may not.
        """
        wanted = self._appended
        while self._durable < wanted:
            if self._committing is None or self._committing.done():
                self._committing = asyncio.create_task(self._commit())
                # Its waiters may all be gone when it fails; the next one begins with a new file then.
                self._committing.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(self._committing)

    async def close(self) -> None:
        """Give the file back, after what is on its way to the disk."""
        if self._committing is not None:
            await asyncio.wait([self._committing])
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, text: bytes) -> None:
        try:
            self._size += write_all(self._file, text)
        except OSError as error:
            self._cut_back()
            raise self._error(error) from error
        if self._behind is not None:
            self._behind.append(text)
        self._appended += 1

    async def _commit(self) -> None:
        try:
            if self._broken or self._size > max(GROWTH * self._size_when_written, self._worth_bytes):
                await self._write_again()
                return
            appended = self._appended
            await asyncio.to_thread(self._sync, self._file)
            self._durable = appended
        except OSError as error:
            # After a failed fsync nobody knows which pages are on disk: the next commit begins with a new file.
            self._broken = True
            raise self._error(error) from error

    async def _write_again(self) -> None:
        """A new file with what counts still; the old one takes all changes until the new one has taken its place."""
        lines = [HEADER, *(line(["cooling", address, since]) for address, since in self._holdings.cooling())]
        lines += [attached_line(each) for each in self._holdings.all()]
        scratch = self.path.with_suffix(".new")
        self._behind = []
        file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = await asyncio.to_thread(write_all, file, b"".join(lines))
            await asyncio.to_thread(self._sync, file)
            # No change can come between these lines: nothing is awaited.
            appended = self._appended
            size += write_all(file, b"".join(self._behind))
            scratch.replace(self.path)
        except BaseException:
            os.close(file)
            scratch.unlink(missing_ok=True)
            raise
        finally:
            self._behind = None
        os.close(self._file)
        self._file, self._size, self._size_when_written, self._broken = file, size, size, False
        await asyncio.to_thread(sync_directory, self.path.parent)
        await asyncio.to_thread(self._sync, file)
        self._durable = appended

    def _cut_back(self) -> None:
        try:
            if self._file >= 0:
                os.ftruncate(self._file, self._size)
        except OSError as error:
            self._broken = True
            log.error("journal cannot be cut back", path=str(self.path), reason=str(error))

    def _replay(self, lines: Sequence[bytes]) -> None:
        for number, text in enumerate(lines, start=1):
            if number == 1:
                if text != HEADER:
                    raise self._error(f"its first line is not {HEADER.decode().strip()}")
                continue
            try:
                self._replay_line(text)
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                log.error(
                    "journal line cannot be read, passed over",
                    path=str(self.path),
                    line=number,
                    reason=str(error),
                )

    def _replay_line(self, text: bytes) -> None:
        operation, *values = msgspec.json.decode(text, type=list[msgspec.Raw])
        match msgspec.json.decode(operation):
            case "attached":
                self._holdings.hold(msgspec.json.decode(*values, type=Attachment))
            case "released":
                key, since = values
                self._holdings.let_go(
                    msgspec.json.decode(key, type=AttachmentKey), msgspec.json.decode(since, type=float)
                )
            case "cooling":
                address, since = values
                self._holdings.cool(
                    Address(msgspec.json.decode(address, type=bytes)), msgspec.json.decode(since, type=float)
                )
            case unknown:
                raise ValueError(f"unknown operation {unknown!r}")

    def _error(self, reason: OSError | str) -> JournalError:
        text = reason if isinstance(reason, str) else reason.strerror or str(reason)
        return JournalError(str(self.path), text)


def attached_line(attachment: Attachment) -> bytes:
    """The line that says that ``attachment`` is there."""
    return line(["attached", attachment])


def line(parts: list[object]) -> bytes:
    """One change, as it stands in the file."""
    return msgspec.json.encode(parts) + b"\n"
