"""The failover drill of a whole cluster, in its own etcd: one key while it goes on, and what each node makes of it.

Who drills writes the key; every agent watches it, does it, and writes its word under a key of its own, and its own lease.
A node's drill ends when the key goes, or when its time is over: that is in its kernel, too, so nobody has to be there. The
first that sees it over takes the key away. The time in the key is Unix time; a node whose clock differs drills by at most
as long as was asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import NoReturn, Protocol

import msgspec
import structlog

from clustermesh import keys
from clustermesh.errors import ClustermeshError, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.operations import Compare, Delete, Put
from clustermesh.own_keys import OwnKeys
from clustermesh.single_key import values
from clustermesh.together import until_failure
from meshd.errors import ClusterNotTold, DrillGoesOn, MeshError
from meshd.model import ServiceName
from meshd.model.drill import DRILL_MAX_S, Drill
from meshd.sources.node_words import Connected, node_words

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0

log = structlog.get_logger(__name__)


class Drilled(Protocol):
    """What drills on this node."""

    async def begin(self, drill: Drill) -> Mapping[str, float]:
        """The kernel holds it; cluster -> share that is planned.

        Raises:
            MeshError: it cannot; nothing is drilled.
        """

    async def end(self) -> Mapping[str, int]:
        """The normal choice is in force again; cluster -> connections that it was given."""


class Order(msgspec.Struct, frozen=True):
    """What is drilled. ``until_s``: Unix time; ``for_s``: how long that is."""

    number: str
    namespace: str
    service: str
    lose: str
    until_s: float
    for_s: float


class Said(msgspec.Struct, frozen=True):
    """A node's word on drill ``number``; the rest as of `model.drill.DrillWord`."""

    node: str
    number: str
    reason: str = ""
    planned: dict[str, float] = {}
    over: bool = False
    given: dict[str, int] = {}


class ClusterDrill:
    """Of ``node`` of ``cluster``. `follow` while there is a connection; the rest for who drills."""

    def __init__(self, cluster: str, node: str, drilled: Drilled) -> None:
        self.cluster = cluster
        self.node = node
        self._drilled = drilled
        self._key = keys.drill(cluster)
        self._words = keys.drill_words(cluster)
        self._connected: Connected | None = None
        # What goes on here, and until when (CLOCK_MONOTONIC).
        self._drill: Drill | None = None
        self._planned: Mapping[str, float] = {}
        # Those that are over are heard of once more after every interruption.
        self._last = ""
        self._moved = asyncio.Event()

    async def follow(self, kv: Kv, own: OwnKeys) -> NoReturn:
        """Does what is said, also what was said before ``kv`` was lost, and gives this node's word through ``own``."""
        self._connected = Connected(kv, own)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_time())
                pause_s = RETRY_FIRST_S
                while True:
                    started = time.monotonic()
                    failure = await until_failure(self._hear(kv))
                    if isinstance(failure, StoreReplaced):
                        kv.unpin()
                    lasted = time.monotonic() - started > RETRY_LAST_S
                    pause_s = RETRY_FIRST_S if lasted else min(2 * pause_s, RETRY_LAST_S)
                    log.warning("cluster's drills not heard", reason=str(failure), retry_s=pause_s)
                    await asyncio.sleep(pause_s)
        finally:
            self._connected = None
        raise AssertionError("a task group of endless tasks ended")

    async def start(self, order: Order) -> None:
        """Says it to the cluster.

        Raises:
            DrillGoesOn: another one does; ClusterNotTold: there is no connection yet; ClustermeshError: etcd did not take
            it.
        """
        kv = self._kv()
        found = await kv.find(self._key)
        condition = Compare(self._key, "create", 0)
        if found.items:
            condition = Compare(self._key, "mod", found.items[0].mod_revision)
            known = _order(found.items[0].value)
            if known is not None and known.until_s > time.time():
                raise _goes_on(known)
        if not (await kv.txn([condition], [Put(self._key, msgspec.json.encode(order))])).succeeded:
            raise ClusterNotTold("somebody else began a drill at the same time")

    async def stop(self, number: str) -> None:
        """Ends drill ``number`` on all nodes; nothing if it is over.

        Raises:
            ClusterNotTold: there is no connection; ClustermeshError: etcd did not take it. It ends when its time is over.
        """
        kv = self._kv()
        for item in (await kv.find(self._key)).items:
            known = _order(item.value)
            if known is not None and known.number == number:
                await kv.txn([Compare(self._key, "mod", item.mod_revision)], [Delete(self._key)])

    async def words(self) -> AsyncGenerator[dict[str, Said], None]:
        """All nodes' words, by name, and again whenever one changes.

        Raises:
            ClusterNotTold, ClustermeshError: they cannot be read any more.
        """
        async with aclosing(node_words(self._kv(), self._words, Said)) as found:
            async for words in found:
                yield words

    def _kv(self) -> Kv:
        if self._connected is None:
            raise ClusterNotTold("there is no connection to it")
        return self._connected.kv

    async def _hear(self, kv: Kv) -> None:
        found = await kv.find(self._key)
        await self._obey(found.items[0].value if found.items else None)
        async with aclosing(values(kv, self._key, found.revision)) as changes:
            async for value in changes:
                await self._obey(value)

    async def _obey(self, value: bytes | None) -> None:
        order = _order(value)
        if order is None and value is not None:
            log.error("cluster's drill cannot be read, what goes on goes on")
            return
        if order is not None and order.number == self._last:
            return
        await self._over()
        if order is None:
            return
        self._last = order.number
        left_s = min(order.until_s - time.time(), order.for_s, DRILL_MAX_S)
        if left_s <= 0:
            self._say(Said(self.node, order.number, "by the clock of this node it is over", over=True))
            await self._take_away(order.number)
            return
        name, until_ns = ServiceName(order.namespace, order.service), time.monotonic_ns() + int(left_s * 1e9)
        try:
            drill = Drill(order.number, name, order.lose, until_ns)
            self._planned = await self._drilled.begin(drill)
        except MeshError as error:
            log.error("cluster's drill is not followed", service=str(name), reason=str(error))
            self._say(Said(self.node, order.number, str(error), over=True))
            return
        log.info("drill began", service=str(name), lose=order.lose, for_s=round(left_s, 1))
        self._drill = drill
        self._moved.set()
        self._say(Said(self.node, order.number, planned=dict(self._planned)))

    async def _keep_time(self) -> NoReturn:
        """Ends what goes on when its time is over, whether etcd is there or not."""
        while True:
            self._moved.clear()
            until_ns = self._drill.until_ns if self._drill is not None else None
            try:
                async with asyncio.timeout(until_ns and max(until_ns - time.monotonic_ns(), 0) / 1e9):
                    await self._moved.wait()
            except TimeoutError:
                await self._over()

    async def _over(self) -> None:
        drill, self._drill = self._drill, None
        if drill is None:
            return
        self._moved.set()
        given = await self._drilled.end()
        log.info("drill is over", service=str(drill.service), lose=drill.lose, given=dict(given))
        self._say(Said(self.node, drill.number, "", dict(self._planned), over=True, given=dict(given)))
        await self._take_away(drill.number)

    async def _take_away(self, number: str) -> None:
        try:
            await self.stop(number)
        except (MeshError, ClustermeshError) as error:
            log.warning("drill that is over stays in etcd, and is ignored", reason=str(error))

    def _say(self, said: Said) -> None:
        if self._connected is not None:
            self._connected.own.update({self._words + self.node: msgspec.json.encode(said)})


def _order(value: bytes | None) -> Order | None:
    """What ``value`` says; None: nothing that can be read."""
    try:
        return msgspec.json.decode(value or b"", type=Order)
    except msgspec.DecodeError:
        return None


def _goes_on(order: Order) -> DrillGoesOn:
    return DrillGoesOn(f"{order.namespace}/{order.service}", order.lose, order.until_s - time.time())
