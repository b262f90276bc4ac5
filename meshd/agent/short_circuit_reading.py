"""What a loaded short circuit shows: the rows of its maps, with the names of workloads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from meshd.agent.short_circuit_sums import BEFORE_CAUSES, Counts, Ends, Sums, Tally, counts_of
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.devices import Found
from meshd.dataplane.short_circuit.circuit import ShortCircuit
from meshd.model import Address
from meshd.servers.short_circuit import NODE, Connection, End, Excluded, Pair, Sent
from meshd.state import Mesh


class Reading:
    """Of ``circuit``. ``sums``: what all connections carried."""

    def __init__(self, mesh: Mesh, dataplane: Dataplane, circuit: ShortCircuit) -> None:
        self._mesh = mesh
        self._dataplane = dataplane
        self._circuit = circuit
        self.sums = Sums(circuit)
        self._pairs: Mapping[Ends, Tally] = {}
        self._named_at: tuple[int, Found] | None = None
        self._names: dict[Address, str] = {}

    async def keys(self) -> Sequence[bytes]:
        """Of the connections that are admitted now."""
        return await asyncio.to_thread(self._circuit.keys)

    def connection(self, key: bytes) -> Connection | None:
        """None: it is over."""
        found = self._circuit.connection(key)
        if found is None:
            return None
        (ends, row), made, names = found, self._circuit.made, self.names()
        places = (ends.source, ends.source_port), (ends.destination, ends.destination_port)
        first, second = (
            End(
                Address(at.bytes),
                port,
                names.get(Address(at.bytes), ""),
                self.sent(counts_of(sent)),
            )
            for (at, port), sent in zip(places, row.ends, strict=True)
        )
        return Connection(
            first,
            second,
            since_s=time.time() - (time.monotonic() - row.since_ns / 1e9),
            joining=bool(row.flags & made.is_joining),
            leaves=made.causes.get(row.leaves, str(row.leaves)) if row.flags & made.is_leaving else "",
        )

    async def pairs(self) -> Sequence[Ends]:
        """Every pair that has, or had, a connection, by address."""
        self._pairs = (await self.sums.fresh()).walk.pairs
        return list(self._pairs)

    def pair(self, ends: Ends) -> Pair | None:
        """As of the last list."""
        tally, names = self._pairs.get(ends), self.names()
        if tally is None:
            return None
        first, second = (
            End(at, 0, names.get(at, ""), self.sent(counts))
            for at, counts in zip(ends, tally.sent, strict=True)
        )
        return Pair(first, second, tally.open, tally.closed)

    def excluded(self) -> list[Excluded]:
        """Selected workloads that stay on TCP. Whoever else splices is nobody's business."""
        names, selected = self._by_cookie(), self._circuit.selected_cookies()
        return [
            Excluded(names.get(one.cookie, ""), one.what, one.process)
            for one in self._circuit.excluded()
            if one.cookie in selected
        ]

    def _by_cookie(self) -> dict[int, str]:
        links = ((link.netns_cookie, str(one)) for one in self._mesh.workloads.values() for link in one.links)
        return {self._dataplane.netns.node_cookie: NODE, **dict(links)}

    def names(self) -> Mapping[Address, str]:
        """Address -> workload, of those that are on this node now."""
        at = self._mesh.revision, self._dataplane.devices.now
        if at != self._named_at:
            self._named_at, self._names = at, self._named()
        return self._names

    def _named(self) -> dict[Address, str]:
        found = dict.fromkeys(self._dataplane.devices.now.addresses, NODE)
        return found | {
            address: str(one)
            for one in self._mesh.workloads.values()
            for link in one.links
            for address in link.addresses
        }

    def sent(self, counts: Counts) -> Sent:
        """``counts`` with their names; causes that did not occur are left out."""
        # Number 0 stands for a message that did not go on TCP.
        causes = {
            name: count
            for number, name in self._circuit.made.causes.items()
            if number and (count := counts[BEFORE_CAUSES + number])
        }
        return Sent(counts[0], counts[1], counts[2], counts[3], causes)
