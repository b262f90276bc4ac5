"""What of a lab is silent or dead while a fault lasts, as its plan has it; overlapping faults add up. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import chain

from meshd.lab.layout import Cluster

NodeName = str
# From which node to which: one way.
Silence = tuple[NodeName, NodeName]


@dataclass(frozen=True, slots=True)
class Effect:
    """``silent``: ways between nodes that no packet of a pod takes. ``lossy``: ways on which some get lost.
    ``late``: nodes of which every packet comes late.

    ``dead``: nodes without any process. ``without_agent``: nodes whose agent is dead, frozen, or starved.
    ``killed``: backends (CLUSTER/POD) that died alone, so their cluster says that they did.
    """

    silent: frozenset[Silence] = frozenset()
    lossy: frozenset[Silence] = frozenset()
    late: frozenset[NodeName] = frozenset()
    dead: frozenset[NodeName] = frozenset()
    without_agent: frozenset[NodeName] = frozenset()
    killed: frozenset[str] = frozenset()

    def __or__(self, other: Effect) -> Effect:
        return Effect(*(getattr(self, each.name) | getattr(other, each.name) for each in fields(Effect)))

    def reaches(self, here: NodeName, there: NodeName) -> bool:
        """Whether pods of the two nodes can speak: packets pass both ways, and somebody is there to answer."""
        if here in self.dead or there in self.dead:
            return False
        return here == there or not ({(here, there), (there, here)} & self.silent)

    @property
    def is_felt(self) -> bool:
        """Whether anybody cannot reach somebody."""
        return bool(self.silent or self.dead or self.killed)


def union(effects: Iterable[Effect]) -> Effect:
    total = Effect()
    for effect in effects:
        total |= effect
    return total


def both_ways(here: Iterable[NodeName], there: Iterable[NodeName]) -> frozenset[Silence]:
    there = list(there)
    return frozenset(chain.from_iterable(((a, b), (b, a)) for a in here for b in there if a != b))


def one_way(here: Iterable[NodeName], there: Iterable[NodeName]) -> frozenset[Silence]:
    there = list(there)
    return frozenset((a, b) for a in here for b in there if a != b)


def names(cluster: Cluster) -> list[NodeName]:
    return [node.name for node in cluster.nodes]
