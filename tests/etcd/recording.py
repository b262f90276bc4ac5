"""A sink that remembers what it was told and lets a test wait for a condition on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from clustermesh.records import ClusterService
from clustermesh.sink import KeptService


class RecordingSink:
    """``services``: cluster -> name -> service as told; ``kept``: cluster -> name -> whether it is held, for those that
    stand only; ``events``: every call as a short tuple, in order.
    """

    def __init__(self) -> None:
        self.services: dict[str, dict[str, ClusterService]] = {}
        self.kept: dict[str, dict[str, bool]] = {}
        self.events: list[tuple[str, ...]] = []
        self._changed = asyncio.Event()

    def peers(self, clusters: frozenset[str]) -> None:
        self.note("peers", *sorted(clusters))

    def replace(self, cluster: str, services: Sequence[ClusterService], kept: Sequence[KeptService]) -> None:
        told = [*services, *(each.record for each in kept)]
        self.services[cluster] = {service.full_name: service for service in told}
        self.kept[cluster] = {each.record.full_name: each.held for each in kept}
        self.note("replace", cluster, str(len(services)))

    def put(self, cluster: str, service: ClusterService) -> None:
        self.services[cluster][service.full_name] = service
        self.kept[cluster].pop(service.full_name, None)
        self.note("put", cluster, service.full_name)

    def keep(self, cluster: str, kept: Sequence[KeptService]) -> None:
        self.services[cluster] |= {each.record.full_name: each.record for each in kept}
        self.kept[cluster] |= {each.record.full_name: each.held for each in kept}
        self.note("keep", cluster, *sorted(each.record.full_name for each in kept))

    def delete(self, cluster: str, name: str) -> None:
        del self.services[cluster][name]
        self.kept[cluster].pop(name, None)
        self.note("delete", cluster, name)

    def synced(self, cluster: str) -> None:
        self.note("synced", cluster)

    def stale(self, cluster: str, reason: str) -> None:
        self.note("stale", cluster, reason)

    def gone(self, cluster: str) -> None:
        self.services.pop(cluster, None)
        self.note("gone", cluster)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds.

        It is looked at after every call to the sink and now and then besides.
        """
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def told(self, *event: str) -> None:
        """Wait until an event begins with ``event``; it and all before it are forgotten."""
        await self.until(lambda: any(one[: len(event)] == event for one in self.events))
        first = next(number for number, one in enumerate(self.events) if one[: len(event)] == event)
        del self.events[: first + 1]

    def note(self, *event: str) -> None:
        """Remember ``event``, and let whoever waits look."""
        self.events.append(event)
        self._changed.set()
