"""A short circuit without a kernel: what a test says that it is, and what callers asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meshd.errors import MeshError
from meshd.model import Address
from meshd.servers.short_circuit import Agreement, Connection, Pair, State


class FakeShortCircuit:
    """``refuses``: raised by whoever switches. ``patience_s``: for how long the cluster was to be waited for."""

    def __init__(self) -> None:
        self.now = State(on=True)
        self.connections: dict[bytes, Connection] = {}
        self.known: list[Pair] = []
        self.agreement = Agreement()
        self.asked: list[tuple[str, bool]] = []
        self.patience_s: float | None = None
        self.refuses: MeshError | None = None

    async def state(self) -> State:
        return self.now

    async def keys(self) -> Sequence[bytes]:
        return list(self.connections)

    def connection(self, key: bytes) -> Connection | None:
        return self.connections.get(key)

    async def pairs(self) -> Sequence[tuple[Address, Address]]:
        return [(one.first.address, one.second.address) for one in self.known]

    def pair(self, ends: tuple[Address, Address]) -> Pair | None:
        return next((one for one in self.known if (one.first.address, one.second.address) == ends), None)

    async def turn(self, *, on: bool) -> None:
        self._take("node", on)
        self.now = replace(
            self.now, on=on, node_on=on, reasons=() if on else ("it was switched off on this node",)
        )

    async def turn_cluster(self, *, on: bool, patience_s: float | None) -> Agreement:
        self._take("cluster", on)
        self.patience_s = patience_s
        return self.agreement

    def _take(self, whom: str, on: bool) -> None:
        self.asked.append((whom, on))
        if self.refuses is not None:
            raise self.refuses
