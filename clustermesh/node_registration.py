"""A node's own key: each node writes only its own record, under its own lease.

Whoever publishes the cluster.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.errors import ClustermeshError, KvError, OptionsError, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.lease import Lease
from clustermesh.node_record import Node, encode_node
from clustermesh.together import until_failure

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0


class NodeRegistration:
    """Keeps the record of ``node`` in ``kv`` for as long as ``run()`` runs, and ``ttl_s`` seconds longer."""

    def __init__(self, kv: Kv, node: Node, *, ttl_s: int = 900, audit_s: float = 300.0) -> None:
        if (problem := keys.cluster_name_problem(node.cluster)) is not None:
            raise OptionsError(f"cluster name {node.cluster!r} {problem}")
        self._kv = kv
        self._node = node
        self._ttl_s = ttl_s
        self._audit_s = audit_s
        self._changed = asyncio.Event()
        self._stored: Node | None = None
        self._progress = asyncio.Condition()
        self.last_error = ""

    def update(self, node: Node) -> None:
        """The node changed (not its name or cluster: those are its key)."""
        if (node.name, node.cluster) != (self._node.name, self._node.cluster):
            raise OptionsError(f"{node.cluster}/{node.name} is not {self._node.cluster}/{self._node.name}")
        self._node = node
        self._changed.set()

    async def settled(self) -> None:
        """Return when the newest record is in etcd."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._stored == self._node)

    async def run(self) -> NoReturn:
        """Write, keep and put right until cancelled; the record then stays until its lease ends."""
        pause_s = RETRY_FIRST_S
        while True:
            failure: ClustermeshError
            try:
                lease = await self._kv.grant(self._ttl_s)
                failure = await until_failure(self._kv.keep(lease), self._follow(lease))
            except KvError as error:
                failure = error
            if isinstance(failure, StoreReplaced):
                self._kv.unpin()  # a new etcd of our own cluster is one to fill
            pause_s = RETRY_FIRST_S if self._stored is not None else min(pause_s * 2, RETRY_LAST_S)
            self._stored = None
            self.last_error = str(failure)
            log.warning("node record interrupted", node=self._node.name, reason=str(failure), retry_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _follow(self, lease: Lease) -> NoReturn:
        key = keys.node(self._node.cluster, self._node.name)
        while True:
            self._changed.clear()
            node = self._node
            value = encode_node(node)
            held = await self._kv.get(key)
            if held is None or (held.value, held.lease) != (value, lease.id):
                await self._kv.put(key, value, lease)
            self._stored = node
            async with self._progress:
                self._progress.notify_all()
            try:
                async with asyncio.timeout(self._audit_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
