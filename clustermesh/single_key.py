"""One key over time: its newest value again and again, also across a compaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from clustermesh.errors import Compacted
from clustermesh.kv import Kv
from clustermesh.watch import Batch


async def changes(kv: Kv, key: str, after: int) -> AsyncGenerator[tuple[bytes | None, int], None]:
    """The value of ``key`` (None: absent) after every change behind revision ``after``, and the change's own, without end.

    After a compaction the newest is told, and values between may be skipped; the revision of a deletion among them is then
    an earlier one. KvError as of Kv.watch.
    """
    while True:
        try:
            async with aclosing(kv.watch(key, after=after, prefix=False)) as watch:
                async for step in watch:
                    for change in step.changes if isinstance(step, Batch) else ():
                        yield change.value, change.revision
        except Compacted:
            found = await kv.find(key)
            if found.items:
                yield found.items[0].value, found.items[0].mod_revision
            else:
                yield None, after
            after = found.revision


async def values(kv: Kv, key: str, after: int) -> AsyncGenerator[bytes | None, None]:
    """The values alone of :func:`changes`."""
    async with aclosing(changes(kv, key, after)) as told:
        async for value, _ in told:
            yield value


async def until_present(kv: Kv, key: str, after: int) -> None:
    """Return when ``key``, absent at revision ``after``, has a value."""
    async with aclosing(values(kv, key, after)) as told:
        async for value in told:
            if value is not None:
                return


async def until_absent(kv: Kv, key: str) -> None:
    """Return when there is no ``key``."""
    found = await kv.find(key)
    if not found.items:
        return
    async with aclosing(values(kv, key, found.revision)) as told:
        async for value in told:
            if value is None:
                return
