"""Which agents of a cluster are there: each holds a key of a short lease, and all see whose keys are there."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.errors import Compacted, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.together import until_failure
from clustermesh.watch import Batch

log = structlog.get_logger()

RETRY_S = 1.0


class Presence:
    """Of ``node`` of ``cluster``. An agent that ends, or is cut off from etcd, is missed after ``ttl_s``."""

    def __init__(self, cluster: str, node: str, ttl_s: int) -> None:
        self._prefix = keys.presence_prefix(cluster)
        self._node = node
        self._ttl_s = ttl_s
        self._present: set[str] = set()
        # Monotonic time since when everybody who is there had time to say so; None: what is known may be outdated.
        self._sees_since: float | None = None

    @property
    def present(self) -> frozenset[str] | None:
        """Names of the nodes whose agents are there; None: it is not known now."""
        since = self._sees_since
        if since is None or time.monotonic() - since < self._ttl_s or self._node not in self._present:
            return None
        return frozenset(self._present)

    async def run(self, kv: Kv) -> NoReturn:
        """Holds this node's key, and looks at the others', until cancelled.

        The key stays for the rest of its time: who is only started again is missed by nobody.
        """
        while True:
            failure = await until_failure(self._hold(kv), self._see(kv))
            self._sees_since = None
            if isinstance(failure, StoreReplaced):
                kv.unpin()
            log.warning("presence of agents not known", reason=str(failure), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)

    async def _hold(self, kv: Kv) -> None:
        lease = await kv.grant(self._ttl_s)
        await kv.put(self._prefix + self._node, b"", lease)
        await kv.keep(lease)

    async def _see(self, kv: Kv) -> None:
        while True:
            listing = await kv.list(self._prefix)
            self._present = {item.key.removeprefix(self._prefix) for item in listing.items}
            self._sees_since = self._sees_since or time.monotonic()
            try:
                async with aclosing(kv.watch(self._prefix, after=listing.revision)) as watch:
                    async for step in watch:
                        self._take(step)
            except Compacted:
                continue

    def _take(self, step: object) -> None:
        if not isinstance(step, Batch):
            # The connection is gone for now: leases may run out behind our back, and be renewed before it is back.
            self._sees_since = None
            return
        self._sees_since = self._sees_since or time.monotonic()
        for change in step.changes:
            name = change.key.removeprefix(self._prefix)
            if change.value is None:
                self._present.discard(name)
            else:
                self._present.add(name)
