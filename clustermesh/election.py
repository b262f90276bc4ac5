"""One publisher per cluster, and one mirror: whoever holds a leased key. The holder's writes are fenced by that key.

The key's creation revision is the fence: every write of the holder is a transaction that demands it
unchanged, so a holder that was cut off and replaced cannot write any more, whatever its clock says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from clustermesh.errors import ClustermeshError, KvError, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.lease import Lease
from clustermesh.operations import Compare, Get, Put

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0
SAY_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class Office:
    """Being the publisher or the mirror: the lease it lives by, and the condition that it still is ours."""

    lease: Lease
    fence: Compare


async def campaign(kv: Kv, key: str, candidate: str, ttl_s: int, dead_prefix: str = "") -> Office | str:
    """Take ``key`` if it is free (or already has our name): the office, or else who holds it.

    ``candidate`` must be unique to this process. Safe to repeat after a lost answer. A holder whose name begins with
    ``dead_prefix`` is known to be dead: its lease is revoked, not waited for, so that its writes are fenced off too.
    """
    holder = await kv.get(key)
    if holder is not None and holder.value != candidate.encode():
        name = (holder.value or b"").decode("utf-8", "replace")
        if not dead_prefix or not name.startswith(dead_prefix):
            return name
        await kv.revoke(Lease(holder.lease, ttl_s, expires_at=0.0))
        holder = None
    lease = await kv.grant(ttl_s)
    condition = Compare(key, "create", holder.create_revision if holder is not None else 0)
    result = await kv.txn(
        [condition], [Put(key, candidate.encode(), lease.id), Get(key)], [Get(key)], repeatable=True
    )
    found = result.found[-1]
    if found is not None and found.value == candidate.encode() and found.lease == lease.id:
        return Office(lease, Compare(key, "create", found.create_revision))
    await kv.revoke(lease)
    return "somebody else" if found is None else (found.value or b"").decode("utf-8", "replace")


async def again_and_again(
    kv: Kv,
    attempt: Callable[[], Awaitable[ClustermeshError | None]],
    failed: Callable[[ClustermeshError, float], None],
) -> NoReturn:
    """Make one ``attempt`` at an office in ``kv`` after the other until cancelled: what ended it, or None, the office was
    another's and is free. ``failed(what ended it, seconds until the next)``."""
    pause_s = RETRY_FIRST_S
    while True:
        started = time.monotonic()
        failure = await attempt()
        if failure is None or time.monotonic() - started > RETRY_LAST_S:
            pause_s = RETRY_FIRST_S
        if failure is None:
            continue
        if isinstance(failure, StoreReplaced):
            kv.unpin()  # a new etcd of our own cluster is one to fill
        failed(failure, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_LAST_S)


@asynccontextmanager
async def given_up(kv: Kv, office: Office) -> AsyncIterator[None]:
    """Whoever is cancelled in ``office`` gives it up at once. Best effort: else a successor waits for the lease to end."""
    try:
        yield
    except asyncio.CancelledError:
        with contextlib.suppress(KvError, TimeoutError):
            async with asyncio.timeout(SAY_GOODBYE_S):
                await kv.revoke(office.lease)
        raise
