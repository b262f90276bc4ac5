"""What servers show of the short circuit, and how it is switched: values of our own, and the calls that give them.

The agent answers them (`meshd/agent/short_circuit_view.py`). What walks a large map does so on a worker thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshd.model import Address

# Stands for the workload where an address is the node's own.
NODE = "node"


@dataclass(frozen=True, slots=True)
class Sent:
    """What one end sent: handed over, and on TCP since the admission. ``causes``: why on TCP -> messages."""

    bytes: int = 0
    messages: int = 0
    tcp_bytes: int = 0
    tcp_messages: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Sent) -> Sent:
        names = self.causes.keys() | other.causes.keys()
        return Sent(
            self.bytes + other.bytes,
            self.messages + other.messages,
            self.tcp_bytes + other.tcp_bytes,
            self.tcp_messages + other.tcp_messages,
            {name: self.causes.get(name, 0) + other.causes.get(name, 0) for name in sorted(names)},
        )


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection; ``port`` 0: of a pair. ``workload`` empty: nobody has this address now."""

    address: Address
    port: int
    workload: str
    sent: Sent


@dataclass(frozen=True, slots=True)
class Connection:
    """``since_s`` is Unix time. ``leaves``: why it goes back to TCP; empty: it does not."""

    first: End
    second: End
    since_s: float
    joining: bool = False
    leaves: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """The connections of two workloads: admitted now, and over."""

    first: End
    second: End
    open: int = 0
    closed: int = 0


@dataclass(frozen=True, slots=True)
class Excluded:
    """A workload that stays on TCP. ``workload`` empty: it is gone. ``what``: splices or tees."""

    workload: str
    what: str
    process: int


@dataclass(frozen=True, slots=True)
class State:
    """``on``: messages may be handed over; ``reasons``: why not, as sentences. ``node_on``, ``cluster_on``: what was asked
    for last. ``outcomes``: of connections that were looked at. ``sent``: of all connections, those that are over too."""

    on: bool = False
    reasons: Sequence[str] = ()
    node_on: bool = True
    cluster_on: bool = True
    selected: int = 0
    connections: int = 0
    leaving: int = 0
    excluded: Sequence[Excluded] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    sent: Sent = Sent()


@dataclass(frozen=True, slots=True)
class Word:
    """What a node says of the cluster's intent: whether it is on there, and why not as asked."""

    node: str
    on: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Who has given his word; ``missing``: nodes that have not. ``superseded``: somebody said something else meanwhile."""

    words: Sequence[Word] = ()
    missing: Sequence[str] = ()
    superseded: bool = False


class ShortCircuit(Protocol):
    """Of this node."""

    async def state(self) -> State:
        """As it is now."""

    async def keys(self) -> Sequence[bytes]:
        """Of the connections that are admitted now; their order is that of the bytes."""

    def connection(self, key: bytes) -> Connection | None:
        """None: it is over."""

    async def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Every pair that has, or had, a connection, by address."""

    def pair(self, ends: tuple[Address, Address]) -> Pair | None:
        """As of the last list; None: it was in none."""

    async def turn(self, *, on: bool) -> None:
        """Switches it on this node, from the next message on.

        Raises:
            IntentNotKept: it is in force, and not on disk.
        """

    async def turn_cluster(self, *, on: bool, patience_s: float | None) -> Agreement:
        """Says it to all nodes of the cluster, and waits for their word.

        Raises:
            NoClusterStore: no etcd is configured; ClusterNotTold: it did not take it.
        """
