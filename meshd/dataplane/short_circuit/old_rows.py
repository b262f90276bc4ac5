"""What programs keep of workloads that are gone goes: who was watched, and what pairs sent.

The first is kept by the cookie of a namespace, which is never given again: it would only fill its map, until no new workload
can be watched, and so none is admitted any more. The second is kept by addresses, which are given again, and whoever has one
next must not be shown with what another sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.rows import Layouts
from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.model import Address
from meshd.model.attachment import CNI
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# A row goes when it was nobody's at two looks: its workload may be about to be told of.
Suspects = dict[str, set[bytes]]


@dataclass(slots=True)
class OldRows:
    """``run`` until cancelled. ``read``: called before rows of totals go, for whoever sums them up."""

    mesh: Mesh
    dataplane: Dataplane
    made: Layouts
    maps: Mapping[str, Map]
    pause_s: float
    read: Callable[[], Awaitable[object]]
    _suspects: Suspects = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.pause_s)
            try:
                await self.look()
            except KernelError as error:
                log.warning("rows of workloads that are gone are not removed, tried again", reason=str(error))

    async def look(self) -> None:
        """Deletes what was nobody's at the last look, and is nobody's now."""
        if not self.mesh.is_complete(CNI) or not self.dataplane.devices.now.looked:
            return
        found = await asyncio.to_thread(self._nobodys, self._cookies(), self._addresses())
        old = {name: keys & self._suspects.get(name, set()) for name, keys in found.items()}
        self._suspects = {name: keys - old[name] for name, keys in found.items()}
        if old[rows.TOTALS]:
            await self.read()
        for name, keys in old.items():
            for key in keys:
                self.maps[name].delete(key)

    def _nobodys(self, cookies: set[int], addresses: set[Address]) -> Suspects:
        """Map -> keys of what is no workload's."""
        watched = ((key, (self.made.u64.decode(key),)) for key, _ in self.maps[rows.WATCHES].items())
        pairs = ((key, self.made.pair.decode(key)) for key, _ in self.maps[rows.TOTALS].items())
        summed = ((key, (pair.first.bytes, pair.second.bytes)) for key, pair in pairs)
        return {rows.WATCHES: _without(watched, cookies), rows.TOTALS: _without(summed, addresses)}

    def _cookies(self) -> set[int]:
        links = (link for one in self.mesh.workloads.values() for link in one.links)
        return {self.dataplane.netns.node_cookie, *(link.netns_cookie for link in links)}

    def _addresses(self) -> set[Address]:
        links = (link for one in self.mesh.workloads.values() for link in one.links)
        return {*self.dataplane.devices.now.addresses, *(at for link in links for at in link.addresses)}


def _without(found: Iterable[tuple[bytes, Iterable[Hashable]]], known: set[int] | set[Address]) -> set[bytes]:
    """The keys one of whose owners is not ``known``."""
    return {key for key, owners in found if not all(each in known for each in owners)}
