"""A drill: for a while a service is served as if a cluster could not be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshd.model.service import ServiceName

# A drill that was forgotten ends within the hour.
DRILL_MAX_S = 3600


@dataclass(frozen=True, slots=True)
class Drill:
    """``number`` names it in all nodes. ``lose``: a cluster, also this node's own. ``until_ns``: CLOCK_MONOTONIC."""

    number: str
    service: ServiceName
    lose: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class DrillWord:
    """What ``node`` says of a drill. ``reason``: why it does not take part; empty: it does.

    ``planned``: cluster -> share (0 to 1) of the service's new connections. ``given``: cluster -> how many of them went
    there in fact, once the drill is ``over``.
    """

    node: str
    reason: str = ""
    planned: Mapping[str, float] = field(default_factory=dict)
    over: bool = False
    given: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DrillReport:
    """``missing``: nodes that have not given their word. ``until_s``: Unix time."""

    number: str
    until_s: float
    words: tuple[DrillWord, ...] = ()
    missing: tuple[str, ...] = ()
