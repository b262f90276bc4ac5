"""How much of what two pods said went from socket to socket: a short circuit that is not made costs nothing but time, so a
figure without this could be one of the pod network."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import NamedTuple

from meshd.bench.agents import Agent
from meshd.bench.places import BenchError
from meshd.errors import KernelError, LayoutError
from meshd.kernel.object import BpfObject

CONNECTIONS, TOTALS, TOTAL = "short_circuit_connections", "short_circuit_totals", "short_circuit_total"
# For so long the last packets of a connection may take to end it.
PATIENCE_S, _LOOK_EVERY_S = 1.0, 0.002


@dataclass(frozen=True, slots=True)
class Sent:
    """Since the connections were admitted: bytes that were handed over, and bytes that went on TCP."""

    handed: int = 0
    passed: int = 0

    def plus(self, other: Sent) -> Sent:
        """Both together."""
        return Sent(self.handed + other.handed, self.passed + other.passed)

    def since(self, before: Sent) -> Sent:
        """What came after ``before``."""
        return Sent(self.handed - before.handed, self.passed - before.passed)

    @property
    def percent(self) -> float:
        """The share that was handed over; 0 where nothing was admitted."""
        return 100 * self.handed / (self.handed + self.passed) if self.handed else 0.0


# bpf/maps/short_circuit.h
class _Sent(NamedTuple):
    bytes: int
    messages: int
    passed_bytes: int
    passed_messages: int
    causes: tuple[int, ...]


class _Total(NamedTuple):
    connections: int
    sent: tuple[_Sent, ...]


class HandedOver:
    """What the programs of ``agent`` count; its maps are closed with ``stack``."""

    def __init__(self, agent: Agent, stack: contextlib.ExitStack) -> None:
        try:
            with BpfObject.open() as bpf:
                self._codec = bpf.btf.codec(TOTAL, _Total)
            self._live, self._over = (
                stack.enter_context(contextlib.closing(agent.open_map(name)))
                for name in (CONNECTIONS, TOTALS)
            )
        except (KernelError, LayoutError) as error:
            raise BenchError(f"the agent has no short circuit: {error}") from error

    def now(self) -> Sent:
        """Of all connections so far; those that have just ended are waited for."""
        deadline = time.monotonic() + PATIENCE_S
        while self._live.count() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        sent = [each for _, value in self._over.items() for each in self._codec.decode(value).sent]
        return Sent(sum(each.bytes for each in sent), sum(each.passed_bytes for each in sent))
