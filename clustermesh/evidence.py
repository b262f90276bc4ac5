"""What vouches for one cluster's word: its heartbeat, and that its cluster-config is there.

A heartbeat counts by its arrival, as Cilium's readers take it, so clocks need not agree. Only the one that is found at the
start of a connection tells its age by its value; one that does not, or that comes from the future, tells nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal, NoReturn

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.removals import Word
from clustermesh.single_key import values

HEARTBEAT_LIMIT_S = 130.0
"""Two heartbeats, and some time to travel."""
LEASES_END_S = 2.0
"""What lives by several leases of one publisher is gone within this time: etcd looks for those that ended twice a second."""

Config = Literal["there", "left", "lost"]


class Evidence:
    """Of one cluster, kept across connections.

    ``steady()`` is called when the word counts again: after two heartbeats, since a publisher that comes back says that it
    lives before it has written all that it has to say.
    """

    def __init__(self, limit_s: float, steady: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._steady = steady
        self._beat_at: float | None = None
        self._is_steady = False
        self._beaten = asyncio.Event()
        # Left: deleted by somebody who lives; lost: it died with its publisher, as far as is known.
        self._config: Config = "there"

    @property
    def heartbeat_age_s(self) -> float | None:
        """Since the last one; None: none came yet, or its key went."""
        return None if self._beat_at is None else time.monotonic() - self._beat_at

    @property
    def word(self) -> Word:
        """What a removal is worth that is seen now."""
        if not self._is_alive() or self._config == "lost":
            return Word.UNSURE
        return Word.LEAVING if self._config == "left" else Word.COUNTS

    def config_seen(self, *, present: bool) -> None:
        """The cluster-config is there, or was just deleted: in order only if `is_outlived` says so."""
        was_lost = self._config == "lost"
        self._config = "there" if present else "lost"
        if present and was_lost and self._is_steady:
            self._steady()

    async def is_outlived(self, kv: Kv, config: str, deleted: int) -> bool:
        """Whether the heartbeat that there was when ``config`` was deleted, at revision ``deleted``, is there some time
        after, so that a publisher that lives did it; what went stale meanwhile is judged anew then.

        Both also go, however young, when a publisher's leases end; and a successor that is quick begins with a heartbeat.
        """
        await asyncio.sleep(LEASES_END_S)
        beats = (await kv.find(keys.HEARTBEAT)).items
        same = any(each.create_revision < deleted for each in beats)
        if not (same and self._is_alive()) or (await kv.find(config)).items:
            return False
        self._config = "left"
        self._steady()
        return True

    async def find_heartbeat(self, kv: Kv) -> int:
        """Look at the heartbeat that is there; the revision of the store at which it was."""
        found = await kv.find(keys.HEARTBEAT)
        age_s = heartbeat_age_s(found.items[0].value if found.items else None, time.time())
        if age_s is not None and age_s <= self._limit_s:
            was, self._beat_at = self._beat_at, time.monotonic() - age_s
            self._beat_at = max(self._beat_at, was or self._beat_at)
            self._is_steady = True
        return found.revision

    async def watch_heartbeat(self, kv: Kv, revision: int) -> None:
        """Note every heartbeat behind ``revision``. When its key goes, its publisher was dead for longer than its lease."""
        async with aclosing(values(kv, keys.HEARTBEAT, revision)) as beats:
            async for value in beats:
                if value is not None:
                    self._beat()
                else:
                    self._beat_at = None

    async def miss_heartbeat(
        self, trouble: Callable[[str, str], None], settle: Callable[[str], None]
    ) -> NoReturn:
        """Say so when none comes for too long, and when they come again."""
        while True:
            self._beaten.clear()
            try:
                async with asyncio.timeout(self._limit_s):
                    await self._beaten.wait()
                settle("heartbeat")
            except TimeoutError:
                trouble("heartbeat", f"no heartbeat for {self._limit_s:g} s")

    def _is_alive(self) -> bool:
        age_s = self.heartbeat_age_s
        return age_s is not None and age_s <= self._limit_s

    def _beat(self) -> None:
        was_alive, self._beat_at = self._is_alive(), time.monotonic()
        if not was_alive:
            self._is_steady = False
        elif not self._is_steady:
            self._is_steady = True
            self._steady()
        self._beaten.set()


def heartbeat_age_s(value: bytes | None, now_s: float) -> float | None:
    """How old the heartbeat ``value`` (RFC 3339) is at ``now_s``, Unix time; None: it does not say."""
    try:
        written = datetime.fromisoformat((value or b"").decode())
    except ValueError:
        return None
    age_s = now_s - written.replace(tzinfo=written.tzinfo or UTC).timestamp()
    # Values are of whole seconds, and clocks of two machines are never the same.
    return max(age_s, 0.0) if age_s > -5.0 else None
