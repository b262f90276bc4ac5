"""A node's part of something that its whole cluster does, running as its agent runs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from clustermesh.kv import Kv
from clustermesh.own_keys import OwnKeys


class Follows(Protocol):
    """What hears of the cluster, and gives the node's word."""

    async def follow(self, kv: Kv, own: OwnKeys) -> Any:
        """Until cancelled."""


Part = TypeVar("Part", bound=Follows)


@asynccontextmanager
async def following(part: Part, kv: Kv) -> AsyncIterator[Part]:
    """``part``, following the cluster of ``kv``."""
    own = OwnKeys(kv, ttl_s=60)
    tasks = [asyncio.create_task(own.run()), asyncio.create_task(part.follow(kv, own))]
    await asyncio.sleep(0)
    try:
        yield part
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
