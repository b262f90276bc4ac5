"""Who carried the packets of a path through meshd: its programs past the host's stack, or the stack.

A redirect that is not made costs nothing but time, so a figure without this could be one of plain routing.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from meshd.bench.agents import Agent
from meshd.bench.report import Row, estimated
from meshd.bench.statistics import exact
from meshd.errors import KernelError, LayoutError
from meshd.kernel.object import BpfObject

EVENTS, EVENT = "pod_network_events", "pod_network_event"
PAST_THE_STACK = ("POD_NETWORK_TO_POD", "POD_NETWORK_TO_UPLINK", "POD_NETWORK_TO_TUNNEL")
TO_THE_STACK = "POD_NETWORK_TO_STACK"
METRIC = "past the stack"
PREFIX = "pod_network_"
ATTACHED = "attached"
TIMEOUT_S = 5.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Carried:
    """Packets that the programs of some nodes have seen so far."""

    past: int = 0
    stack: int = 0

    @property
    def percent(self) -> float:
        """How much of it went past the host's stack; 0 where there are no programs that count."""
        return 100 * self.past / (self.past + self.stack) if self.past else 0.0


def attached(agents: Sequence[Agent]) -> str:
    """Which programs carry pods' packets on the nodes of ``agents``, and which do not, in words.

    Agents attach some of them after they began to serve pods: this waits until all are there, for as long as they may take.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not all((found := _why_not_attached(agents)).values()) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    on = sorted(name for name, why in found.items() if why == ATTACHED)
    off = [f"{name}: {why or 'not attached'}" for name, why in sorted(found.items()) if why != ATTACHED]
    return "; ".join([f"programs: {', '.join(on) or 'none, the host carries the packets'}", *off])


def _why_not_attached(agents: Sequence[Agent]) -> dict[str, str]:
    """Program -> ATTACHED if it is on any node, else why it was left out; empty: nobody has said yet."""
    found: dict[str, str] = {}
    for each in (each for agent in agents for each in agent.status().programs):
        if each.name.startswith(PREFIX) and found.get(each.name.removeprefix(PREFIX)) != ATTACHED:
            found[each.name.removeprefix(PREFIX)] = ATTACHED if each.attached_to else each.left_out
    return found


def seen_by(agents: Iterable[Agent]) -> Carried:
    """By all of ``agents`` together, since they were started."""
    past = stack = 0
    for agent in agents:
        counts = _events(agent)
        past += sum(counts.get(name, 0) for name in PAST_THE_STACK)
        stack += counts.get(TO_THE_STACK, 0)
    return Carried(past, stack)


def rows(path: str, before: Carried, after: Carried) -> Iterator[Row]:
    """The share between two looks, as a figure of ``path``."""
    between = Carried(after.past - before.past, after.stack - before.stack)
    yield estimated(path, "all packets", METRIC, "%", value=exact(between.percent))


def _events(agent: Agent) -> dict[str, int]:
    """Counted by the programs of ``agent``, by name; empty where it has none that count."""
    try:
        with BpfObject.open() as bpf:
            numbers = bpf.btf.enum(EVENT)
        counters = agent.open_map(EVENTS)
    except (LayoutError, KernelError):
        return {}
    try:
        return {name: _total(counters.lookup(struct.pack("=I", number))) for name, number in numbers.items()}
    finally:
        counters.close()


def _total(values: bytes | None) -> int:
    """The sum over CPUs; of a number that has no counter (the last of the enum), 0."""
    return sum(struct.unpack(f"={len(values) // 8}Q", values)) if values else 0
