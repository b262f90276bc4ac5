"""What became of each change: it waits for the kernel, is in it, or failed and is being retried.

The reconciler takes the plan keys that changed and reports on each; whoever wants to know awaits :meth:`Outcomes.settled`
for the keys he cares about.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, KeysView
from typing import NamedTuple

from meshd.errors import RowsFailed


class PlanKey(NamedTuple):
    """What the dataplane plans as one: ``kind`` is one that a feature has a rule for (service, workload, ...),
    ``name`` as in ``default/rebel-base``."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Outcomes:
    """By plan key. ``revision`` is that of the last change."""

    def __init__(self) -> None:
        self.revision = 0
        self._dirty: dict[PlanKey, int] = {}
        self._pending: dict[PlanKey, int] = {}
        # Monotonic time since when each of them waits, the oldest first.
        self._since_s: dict[PlanKey, float] = {}
        self._failed: dict[PlanKey, Exception] = {}
        self._moved = asyncio.Event()

    def take_changes(self) -> dict[PlanKey, int]:
        """Plan keys changed since the last call, with the revision of the first such change."""
        taken, self._dirty = self._dirty, {}
        return taken

    def is_dirty(self, key: PlanKey) -> bool:
        """Whether `take_changes` will name ``key``."""
        return key in self._dirty

    def touch(self, key: PlanKey) -> None:
        """Plan ``key`` again although no object changed (a retry, a source that completed)."""
        self._mark_key(key, self.revision)
        self._wake()

    def report(self, key: PlanKey, error: Exception | None) -> None:
        """What became of ``key`` as taken last: written, or failed with ``error``."""
        if error is None:
            self._failed.pop(key, None)
        else:
            self._failed[key] = error
        self._since_s.pop(key, None)
        if key in self._dirty:  # changed again while it was written
            self._pending[key] = self._dirty[key]
            self._since_s[key] = time.monotonic()
        else:
            self._pending.pop(key, None)
        self._wake()

    @property
    def failed(self) -> dict[PlanKey, Exception]:
        """Plan keys whose last attempt failed, with the reason; they are being retried."""
        return dict(self._failed)

    @property
    def failed_keys(self) -> KeysView[PlanKey]:
        """The keys of `failed`, as they are at any time."""
        return self._failed.keys()

    @property
    def pending_keys(self) -> KeysView[PlanKey]:
        """The keys that wait for the kernel, as they are at any time."""
        return self._pending.keys()

    def is_pending(self, key: PlanKey) -> bool:
        """Whether a change of ``key`` waits for the kernel."""
        return key in self._pending

    def pending_s(self, key: PlanKey) -> float:
        """For how long the oldest change of ``key`` has been waiting for the kernel; 0: none does."""
        since_s = self._since_s.get(key)
        return max(time.monotonic() - since_s, 0.0) if since_s is not None else 0.0

    @property
    def waiting_since_s(self) -> float | None:
        """Monotonic time since when the oldest change waits for the kernel; None: nothing does."""
        return next(iter(self._since_s.values()), None)

    @property
    def pending(self) -> int:
        """How many plan keys wait for the kernel."""
        return len(self._pending)

    async def moved(self) -> None:
        """Until anything changes: a revision, an outcome, the state of a source."""
        await self._moved.wait()

    def moved_event(self) -> asyncio.Event:
        """Set at the next change; for those who look first and wait after."""
        return self._moved

    async def settled(self, revision: int, keys: Iterable[PlanKey] | None = None) -> None:
        """Until the kernel holds what ``keys`` (None: all) were at ``revision``.

        Raises:
            RowsFailed: some of them could not be written; the others are in force.
        """
        wanted = None if keys is None else set(keys)
        while any(
            since <= revision and (wanted is None or key in wanted) for key, since in self._pending.items()
        ):
            await self.moved()
        failed = {str(key): error for key, error in self._failed.items() if wanted is None or key in wanted}
        if failed:
            raise RowsFailed(failed)

    def _mark_key(self, key: PlanKey, revision: int) -> None:
        # The first revision that is not in the kernel yet, so that nobody who waits for it is told too early.
        self._dirty.setdefault(key, revision)
        self._pending.setdefault(key, revision)
        if key not in self._since_s:
            self._since_s[key] = time.monotonic()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
