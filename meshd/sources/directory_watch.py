"""When a directory's files changed, told within a millisecond, and never in the middle of a write or of a removal.

inotify through asyncinotify: its descriptor goes straight into the event loop, where a library with a thread of its own
adds a poll interval to every change. A file that somebody is writing is not reported until he closes it; what was read
is therefore whole if, *after* reading, nobody is found to have begun a new write (``is_being_written``). A file that is
gone is reported a moment later: it may be on its way back (editors), or the whole directory is being removed, which
says nothing about any file.

File systems without events, and events the kernel dropped, are covered by looking at everything now and then.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from asyncinotify import Inotify, Mask

RESCAN_S = 30.0
RETRY_S = 0.1
# How long nothing may happen before we believe that a file is gone, or that a directory that came back is filled; and how
# long we let that be put off.
GONE_QUIET_S = 0.02
BACK_QUIET_S = 0.2
QUIET_AT_MOST_S = 0.6

_MASK = (
    Mask.MODIFY
    | Mask.CLOSE_WRITE
    | Mask.CREATE  # links; an ordinary file is reported when it is closed
    | Mask.DELETE
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.ATTRIB  # permissions: a file may be readable now
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
_ENDED = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED
_AWAY = Mask.DELETE | Mask.MOVED_FROM
# The hidden link that is renamed when all files of a mounted ConfigMap are swapped at once.
_SWAPPED = "..data"


class Changed(NamedTuple):
    """``names`` to look at, or with ``everything`` all files. ``missing``: why the directory cannot be watched, or ""."""

    names: frozenset[str]
    everything: bool
    missing: str


class DirectoryWatch:
    """A watch on the files directly in ``path`` whose name is ``wanted``. Use as a context manager.

    The directory need not exist (yet, or any more): then that is what is reported, and everything once it is there.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        self._path = path
        self._wanted = wanted
        self._inotify: Inotify | None = None
        self._event = asyncio.Event()
        self._names: set[str] = set()
        self._away: set[str] = set()
        self._everything = True
        self._writing: set[str] = set()
        self._missing = ""
        self._told_missing = ""

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def changed(self) -> Changed:
        """The next change: everything at the first call, after the directory was missing, and every ``RESCAN_S``.

        That the directory is missing is returned once for each reason.
        """
        while not (self._names or self._everything) or self._inotify is None:
            if self._inotify is not None:
                await self._next_event()
            elif self._missing != self._told_missing:
                self._told_missing = self._missing
                return Changed(frozenset(), everything=False, missing=self._missing)
            else:
                await asyncio.sleep(RETRY_S)
                self._open()
                await self._quiet(BACK_QUIET_S)
            if self._away:
                await self._quiet(GONE_QUIET_S)
        self._told_missing = ""
        changed = Changed(frozenset(self._names), self._everything, missing="")
        self._names, self._away, self._everything = set(), set(), False
        self._event.clear()
        return changed

    def is_being_written(self, name: str) -> bool:
        """Whether somebody has written to the file and not closed it yet; it will be reported when he has."""
        self._drain()
        return name in self._writing

    def is_lost(self) -> bool:
        """Whether the directory went away, so that a file that is not found may be anywhere."""
        self._drain()
        return self._inotify is None

    async def _next_event(self) -> None:
        try:
            async with asyncio.timeout(RESCAN_S):
                await self._event.wait()
        except TimeoutError:
            self._close()  # something may have been mounted over the directory, which makes no event
            self._open()
        self._event.clear()

    async def _quiet(self, quiet_s: float) -> None:
        now = asyncio.get_running_loop().time
        at_most = now() + QUIET_AT_MOST_S
        while self._inotify is not None and now() < at_most:
            self._event.clear()
            try:
                async with asyncio.timeout(quiet_s):
                    await self._event.wait()
            except TimeoutError:
                return

    def _open(self) -> None:
        inotify = Inotify(sync_timeout=0, cache_size=64)
        try:
            inotify.add_watch(self._path, _MASK)
        except OSError as error:
            inotify.close()
            self._missing = os.strerror(error.errno or errno.EIO)
            return
        self._inotify = inotify
        self._missing = ""
        self._everything = True
        asyncio.get_running_loop().add_reader(inotify.fd, self._drain)

    def _close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
        self._inotify = None
        self._writing.clear()
        self._away.clear()

    def _drain(self) -> None:
        while self._inotify is not None and (event := self._inotify.sync_get()) is not None:
            self._take(event.mask, event.name.name if event.name else "")

    def _take(self, mask: Mask, name: str) -> None:
        if mask & _ENDED:
            self._close()
            self._missing = os.strerror(errno.ENOENT)
        elif mask & Mask.Q_OVERFLOW or name == _SWAPPED:
            self._writing.clear()
            self._everything = True
        elif mask & Mask.MODIFY:
            self._writing.add(name)
            return
        elif not self._wanted(name):
            return
        else:
            self._take_file(mask, name)
        self._event.set()

    def _take_file(self, mask: Mask, name: str) -> None:
        if mask & (Mask.CLOSE_WRITE | Mask.MOVED_TO | _AWAY):
            self._writing.discard(name)
        if mask & _AWAY:
            self._away.add(name)
        elif mask & Mask.CREATE and not self._is_link(name):
            return
        else:
            self._away.discard(name)
        self._names.add(name)

    def _is_link(self, name: str) -> bool:
        path = self._path / name
        try:
            return path.is_symlink() or path.stat().st_nlink > 1
        except OSError:
            return False
