"""A copy of a prefix that is told to read everything once more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import pytest

from clustermesh.kv import Kv
from clustermesh.reflector import Copy, Reflector

PREFIX = "there/"


class Lists:
    """An outlet that counts complete lists, and changes behind them."""

    def __init__(self) -> None:
        self.taken = self.followed = 0

    def replace(self, records: Mapping[str, bytes]) -> None:
        self.taken += 1

    def put(self, name: str, record: bytes) -> None:
        self.followed += 1

    def delete(self, names: Sequence[str], revision: int) -> None: ...

    def fresh(self) -> None: ...

    def stale(self, reason: str) -> None: ...

    async def until(self, taken: int, kv: Kv) -> None:
        """Returns when it follows behind the list of this number."""
        while self.taken < taken:
            await asyncio.sleep(0.005)
        await kv.put(PREFIX + "one", str(taken).encode())
        while self.followed < taken:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_told_again_while_it_ends_reads_once_more_and_goes_on(kv: Kv, turns: int) -> None:
    await kv.put(PREFIX + "one", b"0")
    lists = Lists()
    reflector = Reflector(
        kv, PREFIX, None, decode=lambda _key, _name, value: value, copy=Copy[bytes](), outlet=lists
    )
    task = asyncio.create_task(reflector.run())
    try:
        await lists.until(1, kv)
        reflector.list_again()
        for _ in range(turns):
            await asyncio.sleep(0)
        reflector.list_again()
        await lists.until(2, kv)
        reflector.list_again()
        await lists.until(3, kv)
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
