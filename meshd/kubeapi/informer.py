"""One resource kept current: listed once, then watched from there, and listed again only if the server forgot where we were.

Out of reach is no reason to forget anything: whoever listens is told since when, and keeps what he has. A new list is handed
over only when it is complete, so nothing is ever gone because a list was being read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import structlog

from meshd.errors import ApiServerError, ApiServerUnreachable, ConfigError, MeshError
from meshd.kubeapi.answers import Item
from meshd.kubeapi.client import Client
from meshd.kubeapi.pace import End, Pace
from meshd.kubeapi.resources import Resource
from meshd.kubeapi.watching import Batch

T = TypeVar("T")

# A watch that is refused so often in a row may never be granted from where we are: list instead.
REFUSED_MOST = 5

log = structlog.get_logger(__name__)


class Listener(Protocol[T]):
    """Who is told. What raises here ends the informer."""

    async def listed(self, items: Sequence[Item[T]]) -> None:
        """These are all; what was there before and is not among them is gone."""

    async def changed(self, batch: Batch[T]) -> None:
        """What happened since, in this order. Without bookmarks."""

    def reached(self) -> None:
        """Whether the resource is in reach is another than before (`Informer.health`)."""


@dataclass(frozen=True, slots=True)
class Health:
    """``away_since_s``: Unix time, None: it is current. ``listed``: a complete list was had once."""

    resource: str
    listed: bool = False
    away_since_s: float | None = None
    reason: str = ""
    lists: int = 0
    watches: int = 0


class Informer(Generic[T]):
    """Objects of ``resource`` that the selectors name, as ``into``. ``pace`` decides when to ask again."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        into: type[T],
        listener: Listener[T],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        pace: Pace | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._resource = resource
        self._into = into
        self._listener = listener
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._pace = pace or Pace()
        self._now = now
        self._version = ""
        self._standing = False
        # Unix time since when nothing was heard; None: something is.
        self._silent_since_s: float | None = None
        self._refused = 0
        self.health = Health(str(resource))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            opened_s = self._now()
            end = await self._once()
            stood_s = self._now() - opened_s
            if self._standing:
                self._standing = False
                self._silent_since_s = time.time()
            chance = random.random()  # noqa: S311 - spreads load
            await asyncio.sleep(self._pace.wait_s(stood_s, end, chance))

    async def _once(self) -> End:
        """One list, where there is no version to go on from, and one watch until it ends."""
        try:
            if not self._version:
                await self._list()
            await self._watch()
        except ApiServerError as error:
            if error.status == 410:
                log.info("list again", resource=str(self._resource), reason=error.message)
                self._version = ""
                return End(clean=False, retry_after_s=error.retry_after_s)
            self._refused += 1
            if self._refused >= REFUSED_MOST:
                self._version = ""
            self._failed(error)
            return End(clean=False, retry_after_s=error.retry_after_s)
        except (ApiServerUnreachable, ConfigError) as error:
            self._failed(error)
            return End(clean=False)
        return End(clean=True)

    async def _list(self) -> None:
        found = await self._client.list(
            self._resource, self._namespace, into=self._into, labels=self._labels, fields=self._fields
        )
        for item in found.items:
            self._note_broken(item)
        await self._listener.listed(found.items)
        self._version = found.resource_version
        self.health = replace(self.health, listed=True, lists=self.health.lists + 1)

    async def _watch(self) -> None:
        watch = self._client.watch(
            self._resource,
            self._version,
            self._namespace,
            into=self._into,
            labels=self._labels,
            fields=self._fields,
        )
        async with aclosing(watch) as batches:
            async for batch in batches:
                if not self._standing:
                    self._stands()
                    continue
                self._check_time(batch)
                changes = [change for change in batch if not change.bookmark]
                for change in changes:
                    self._note_broken(change.item)
                if changes:
                    await self._listener.changed(changes)
                # Only what was handed over counts as had.
                self._version = batch[-1].item.resource_version or self._version

    def _check_time(self, batch: Batch[T]) -> None:
        """etcd restored from a backup has an earlier time, and changes until it is ours again would be lost."""
        for change in batch:
            told = change.item.resource_version
            if told.isdecimal() and self._version.isdecimal() and int(told) < int(self._version):
                raise ApiServerError(
                    f"watch {self._resource}",
                    410,
                    "Expired",
                    f"the server is at version {told}, behind {self._version}: it was set back",
                )

    def _stands(self) -> None:
        self._standing = True
        self._silent_since_s = None
        self._refused = 0
        back = self.health.away_since_s is not None
        if back:
            log.info("API server is back", resource=str(self._resource), endpoint=self._client.endpoint)
        self.health = replace(self.health, away_since_s=None, reason="", watches=self.health.watches + 1)
        if back or self.health.watches == 1:
            self._listener.reached()

    def _failed(self, error: MeshError) -> None:
        """A connection that broke is made again before anybody hears of it; one that cannot be made is away."""
        if self._standing:
            return
        if self._silent_since_s is None:
            self._silent_since_s = time.time()
        first = self.health.away_since_s is None
        if first or self.health.reason != str(error):
            log.warning(
                "API server away, what it said stands", resource=str(self._resource), reason=str(error)
            )
            self.health = replace(self.health, away_since_s=self._silent_since_s, reason=str(error))
            self._listener.reached()

    def _note_broken(self, item: Item[T]) -> None:
        if item.value is None and item.reason:
            log.warning(
                "object of a shape that is not known",
                resource=str(self._resource),
                object="/".join(part for part in item.key if part),
                reason=item.reason,
            )
