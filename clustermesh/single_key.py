"""One key over time: its newest value again and again, also across a compaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from clustermesh.errors import Compacted
from clustermesh.kv import Kv
from clustermesh.watch import Batch


async def values(kv: Kv, key: str, after: int) -> AsyncGenerator[bytes | None, None]:
    """The value of ``key`` (None: absent) after every change behind revision ``after``, without end.

    After a compaction the newest is told, and values between may be skipped. KvError as of Kv.watch.
    """
    while True:
        try:
            async with aclosing(kv.watch(key, after=after, prefix=False)) as watch:
                async for step in watch:
                    for change in step.changes if isinstance(step, Batch) else ():
                        yield change.value
        except Compacted:
            found = await kv.find(key)
            after = found.revision
            yield found.items[0].value if found.items else None


async def until_present(kv: Kv, key: str, after: int) -> None:
    """Return when ``key``, absent at revision ``after``, has a value."""
    async with aclosing(values(kv, key, after)) as changes:
        async for value in changes:
            if value is not None:
                return


async def until_absent(kv: Kv, key: str) -> None:
    """Return when there is no ``key``."""
    found = await kv.find(key)
    if not found.items:
        return
    async with aclosing(values(kv, key, found.revision)) as changes:
        async for value in changes:
            if value is None:
                return
