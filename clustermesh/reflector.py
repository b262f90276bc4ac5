"""A copy of the records under one prefix: list, then watch, list again when the watch cannot go on.

A list counts as complete only if the exporter's canary stands at the same revision: an etcd that came back
empty has no canary, so its emptiness is never taken for deletions. A record that cannot be used leaves its
last good version in force. What follows from a record that vanished is not decided here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, NoReturn, Protocol, TypeVar

import structlog

from clustermesh.errors import Compacted, InvalidRecord, NotJudgedYet
from clustermesh.kv import Kv
from clustermesh.operations import Listing
from clustermesh.single_key import until_present
from clustermesh.watch import Batch, Change

log = structlog.get_logger()

SLICE_RECORDS = 100
"""Records decoded in one turn of the event loop; below 2 ms."""
MAX_NAMED = 100
"""So many refused records are kept by name; more are only counted."""

RecordT = TypeVar("RecordT")
RecordT_contra = TypeVar("RecordT_contra", contravariant=True)


class Outlet(Protocol[RecordT_contra]):
    """Where a reflector tells what it sees. Names are keys without the prefix."""

    def replace(self, records: Mapping[str, RecordT_contra]) -> None:
        """This is all there is."""

    def put(self, name: str, record: RecordT_contra) -> None:
        """This record is new or changed."""

    def delete(self, names: Sequence[str], revision: int) -> None:
        """These records are gone since ``revision`` of the store; keys of one lease go in one revision."""

    def fresh(self) -> None:
        """What was told is all there is, and changes arrive."""

    def stale(self, reason: str) -> None:
        """Changes may be missing from now on."""


@dataclass(slots=True)
class Copy(Generic[RecordT]):
    """What is known of the records, kept across connections.

    ``refused``: name -> why, for records that cannot be used now; ``refusals``: field at fault -> how
    often, ever.
    """

    records: dict[str, RecordT] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)

    def forget(self, name: str) -> bool:
        """There is no record of ``name``; whether one was known."""
        self.refused.pop(name, None)
        return self.records.pop(name, None) is not None


Decode = Callable[[str, str, bytes], RecordT]
"""(key, name, value) -> record, or InvalidRecord."""


class Reflector(Generic[RecordT]):
    """Keeps ``copy`` equal to what ``kv`` holds under ``prefix``.

    ``canary`` None: the exporter writes none. ``look(listing)`` sees every complete list before it is decoded.
    """

    def __init__(
        self,
        kv: Kv,
        prefix: str,
        canary: str | None,
        *,
        decode: Decode[RecordT],
        copy: Copy[RecordT],
        outlet: Outlet[RecordT],
        look: Callable[[Listing], Awaitable[None]] | None = None,
    ) -> None:
        self._kv = kv
        self._prefix = prefix
        self._canary = canary
        self._decode = decode
        self._copy = copy
        self._outlet = outlet
        self._look = look
        self._following: asyncio.Timeout | None = None
        self._is_taking = False
        self._is_asked = False

    def list_again(self) -> None:
        """Read everything once more, as if nothing was known."""
        # What has been judged already of a list that is being taken was judged by what held before.
        self._is_asked = self._is_taking
        # Once only: what ends already cannot be told to end.
        following, self._following = self._following, None
        if following is not None:
            following.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> NoReturn:
        """List and watch until cancelled.

        KvError when the connection or the store cannot be relied on any more.
        """
        while True:
            listing = await self._complete_list()
            if self._look is not None:
                await self._look(listing)
            await self._replace(listing)
            if self._is_asked:
                continue
            try:
                await self._follow_until_told(listing.revision)
            except Compacted as error:
                self._outlet.stale(str(error))

    async def _follow_until_told(self, revision: int) -> None:
        following: asyncio.Timeout | None = None
        try:
            async with asyncio.timeout(None) as following:
                self._following = following
                await self._follow(revision)
        except TimeoutError:
            if following is None or not following.expired():
                raise
        finally:
            self._following = None

    async def _complete_list(self) -> Listing:
        while True:
            if self._canary is not None:
                await self._await_canary(self._canary)
            listing = await self._kv.list(self._prefix)
            try:
                if self._canary is None or await self._kv.get_at(self._canary, listing.revision) is not None:
                    return listing
            except Compacted:
                continue

    async def _await_canary(self, canary: str) -> None:
        found = await self._kv.find(canary)
        if found.items:
            return
        self._outlet.stale(f"waiting for {canary}")
        await until_present(self._kv, canary, found.revision)

    async def _follow(self, revision: int) -> None:
        interrupted = False
        async with aclosing(self._kv.watch(self._prefix, after=revision)) as watch:
            async for step in watch:
                if not isinstance(step, Batch):
                    interrupted = True
                    self._outlet.stale(step.reason)
                    continue
                self._apply(step.changes)
                if interrupted:
                    interrupted = False
                    self._outlet.fresh()

    async def _replace(self, listing: Listing) -> None:
        self._is_taking, self._is_asked = True, False
        before, self._copy.refused = self._copy.records, {}
        records: dict[str, RecordT] = {}
        for number, item in enumerate(listing.items, start=1):
            if number % SLICE_RECORDS == 0:
                await asyncio.sleep(0)
            name = item.key.removeprefix(self._prefix)
            record = self._decoded(item.key, name, item.value)
            if record is None:
                record = before.get(name)
            if record is not None:
                records[name] = record
        self._copy.records, self._is_taking = records, False
        self._outlet.replace(dict(records))
        self._outlet.fresh()

    def _apply(self, changes: Iterable[Change]) -> None:
        for (revision, is_deletion), together in groupby(
            changes, lambda change: (change.revision, change.value is None)
        ):
            if is_deletion:
                self._delete([change.key.removeprefix(self._prefix) for change in together], revision)
            else:
                for change in together:
                    self._put(change)

    def _delete(self, names: Iterable[str], revision: int) -> None:
        gone = [name for name in names if self._copy.forget(name)]
        if gone:
            self._outlet.delete(gone, revision)

    def _put(self, change: Change) -> None:
        name = change.key.removeprefix(self._prefix)
        record = self._decoded(change.key, name, change.value)
        # A successor of the publisher writes everything again; only real changes go on.
        if record is not None and self._copy.records.get(name) != record:
            self._copy.records[name] = record
            self._outlet.put(name, record)

    def _decoded(self, key: str, name: str, value: bytes | None) -> RecordT | None:
        """The record, None (counted and named) if it cannot be used."""
        try:
            record = self._decode(key, name, _received(key, value))
        except NotJudgedYet:
            return None
        except InvalidRecord as error:
            self._copy.refusals[error.field] += 1
            if len(self._copy.refused) < MAX_NAMED or name in self._copy.refused:
                self._copy.refused[name] = f"{error.field}: {error.reason}"
            log.warning("record refused", key=key[:300], field=error.field, reason=error.reason)
            return None
        self._copy.refused.pop(name, None)
        return record


def _received(key: str, value: bytes | None) -> bytes:
    if value is None:
        raise InvalidRecord(key, "value", "is larger than can be received")
    return value


def counts(refusals: Mapping[str, int]) -> dict[str, int]:
    """Refusals by field with the addresses taken out, so that the number of kinds stays small."""
    kinds: Counter[str] = Counter()
    for where, count in refusals.items():
        kinds[where.partition(".")[0].partition("[")[0]] += count
    return dict(kinds)
