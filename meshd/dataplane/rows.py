"""What plans are made of: rows of maps as packed bytes, and what else a feature wants done once they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# map name -> packed key -> packed value
Rows = dict[str, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ServedFrontend:
    """Who may keep talking through a frontend: packed endpoints of backends that are ready or still serve while they end.

    ``close_tcp``: established TCP connections to others are closed as well, not only connected UDP sockets. ``lost``: packed
    endpoints of backends whose nodes are confirmed to be down, if the service wants connections to such closed, of any kind.
    """

    service: str
    backends: tuple[bytes, ...]
    close_tcp: bool
    lost: frozenset[bytes] = frozenset()


class Takers(NamedTuple):
    """Which clusters take the new connections to a service, by what was chosen for it.

    ``shares``: cluster -> 0 to 1, the mean of the frontends that have a backend. ``usable``: clusters with a backend that
    serves and is within reach, chosen or not. ``silent``: cluster -> how many of its backends are out of reach.
    ``stale``: clusters with backends that the service drops because nobody vouches for them.
    """

    shares: Mapping[str, float]
    usable: frozenset[str]
    silent: Mapping[str, int]
    stale: frozenset[str]
    is_global: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``served``: packed frontend -> who serves it; absent for features that translate nothing. ``takers``: of a service
    that is there; else None."""

    rows: Rows
    served: dict[bytes, ServedFrontend] = field(default_factory=dict)
    takers: Takers | None = None
