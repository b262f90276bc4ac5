"""The switch of a whole cluster, in its own etcd: what somebody said last, and what each node makes of it.

Who switches writes one key, under no lease. Every agent watches it, does it, and writes its word under a key of its own, and
its own lease. A word names the change that it is an answer to, by a number drawn at random: revisions begin anew in a store
that was replaced. A store without the key says nothing, so what was heard before holds; a node that heard "off" says so to
the empty store, and those that come later hear it too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NoReturn, Protocol

import msgspec
import structlog

from clustermesh import keys
from clustermesh.errors import StoreReplaced
from clustermesh.kv import Kv
from clustermesh.operations import Compare, Put
from clustermesh.own_keys import OwnKeys
from clustermesh.single_key import values
from clustermesh.together import until_failure
from meshd.errors import ClusterNotTold, MeshError
from meshd.sources.node_words import Connected, node_words

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0

log = structlog.get_logger(__name__)


class Switched(Protocol):
    """What is switched on this node."""

    @property
    def is_on(self) -> bool:
        """Whether it is on."""

    @property
    def cluster_on(self) -> bool:
        """What this node heard last."""

    def reasons(self) -> list[str]:
        """Why it is off; none: it is on."""

    async def take(self, *, on: bool) -> None:
        """Does what was said.

        Raises:
            MeshError: something is wrong with that.
        """


class Order(msgspec.Struct, frozen=True):
    """What somebody said to the cluster."""

    change: str
    on: bool


class Said(msgspec.Struct, frozen=True):
    """A node's word. ``change``: which order it is an answer to."""

    node: str
    change: str
    on: bool
    reason: str = ""


class ClusterSwitch:
    """Of ``node`` of ``cluster``. `follow` while there is a connection; `turn` and `words` for who switches."""

    def __init__(self, cluster: str, node: str, switched: Switched) -> None:
        self.cluster = cluster
        self.node = node
        self._switched = switched
        self._key = keys.short_circuit(cluster)
        self._words = keys.short_circuit_words(cluster)
        self._connected: Connected | None = None
        self._trouble = ""
        # Changes that were seen, in their order.
        self._seen: list[str] = []

    async def follow(self, kv: Kv, own: OwnKeys) -> NoReturn:
        """Does what is said, as long as ``kv`` is there, and gives this node's word through ``own``."""
        self._connected, pause_s = Connected(kv, own), RETRY_FIRST_S
        try:
            while True:
                seen = len(self._seen)
                failure = await until_failure(self._hear(kv))
                if isinstance(failure, StoreReplaced):
                    kv.unpin()
                pause_s = RETRY_FIRST_S if len(self._seen) > seen else min(2 * pause_s, RETRY_LAST_S)
                log.warning("cluster's switch not heard", reason=str(failure), retry_s=pause_s)
                await asyncio.sleep(pause_s)
        finally:
            self._connected = None

    async def turn(self, *, on: bool) -> str:
        """Says it to the cluster; the number of the change.

        Raises:
            ClusterNotTold: there is no connection yet; ClustermeshError: etcd did not take it.
        """
        if self._connected is None:
            raise ClusterNotTold("there is no connection to it yet")
        order = Order(secrets.token_hex(8), on)
        await self._connected.kv.put(self._key, msgspec.json.encode(order))
        return order.change

    async def words(self) -> AsyncGenerator[dict[str, Said], None]:
        """All nodes' words, by name, and again whenever one changes.

        Raises:
            ClustermeshError: they cannot be read any more.
        """
        if self._connected is None:
            raise ClusterNotTold("there is no connection to it any more")
        async with aclosing(node_words(self._connected.kv, self._words, Said)) as found:
            async for words in found:
                yield words

    def is_superseded(self, change: str) -> bool:
        """Whether something else was said after ``change``."""
        return change in self._seen and self._seen[-1] != change

    def say(self) -> None:
        """This node's word, if it has heard anything: to be called when what it is about has changed."""
        if self._connected is None or not self._seen:
            return
        on = self._switched.is_on
        self._give("" if on else "; ".join(self._switched.reasons()))

    def _give(self, reason: str) -> None:
        if self._connected is not None:
            said = Said(self.node, self._seen[-1], self._switched.is_on, reason)
            self._connected.own.update({self._words + self.node: msgspec.json.encode(said)})

    async def _hear(self, kv: Kv) -> None:
        found = await kv.find(self._key)
        if found.items:
            await self._obey(found.items[0].value)
        elif not self._switched.cluster_on:
            await self._repeat(kv)
        async with aclosing(values(kv, self._key, found.revision)) as changes:
            async for value in changes:
                await self._obey(value)

    async def _repeat(self, kv: Kv) -> None:
        """A store that has lost what was said is told again; it comes back as a change."""
        order = msgspec.json.encode(Order(secrets.token_hex(8), on=False))
        await kv.txn([Compare(self._key, "create", 0)], [Put(self._key, order)], repeatable=True)

    async def _obey(self, value: bytes | None) -> None:
        if value is None:
            return
        try:
            order = msgspec.json.decode(value, type=Order)
        except msgspec.DecodeError as error:
            log.error("cluster's switch cannot be read, what was said before holds", reason=str(error))
            return
        self._seen = [*self._seen[-8:], order.change]
        try:
            await self._switched.take(on=order.on)
        except MeshError as error:
            log.error("cluster's switch was not obeyed in all", reason=str(error))
            self._give(str(error))
            return
        self.say()
