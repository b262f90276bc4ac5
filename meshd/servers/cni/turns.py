"""Commands on one interface take turns; those on different ones do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshd.model.attachment import AttachmentKey


class Turns:
    """Use: ``async with turns.of(key):``. Remembers a key only while somebody has its turn or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[AttachmentKey, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: AttachmentKey) -> AsyncIterator[None]:
        """The turn of ``key``, in the order of asking."""
        lock, waiting = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks.pop(key)
            if waiting > 1:
                self._locks[key] = lock, waiting - 1
