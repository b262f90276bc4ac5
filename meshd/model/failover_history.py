"""A failover that was: backends of a cluster that took traffic could not any more, and what became of the traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from meshd.model.service import ServiceName


class Cause(Enum):
    """How it is known that the backends cannot serve."""

    SILENT = "silent"
    """Nodes of the cluster do not answer probes."""
    WITHDRAWN = "withdrawn"
    """The cluster's own word: it names no backend any more that serves."""
    STALE = "stale"
    """Nobody vouched for its backends for too long, and the service drops such."""
    LEFT = "left"
    """The cluster is no longer one of the mesh's."""


@dataclass(frozen=True, slots=True)
class Move:
    """What one service did. ``switch_s``: from the finding until the kernel held the change.

    ``before`` and ``after``: cluster -> its share (0 to 1) of the new connections from this node. Equal: nobody else serves.
    """

    service: ServiceName
    switch_s: float
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Failover:
    """Of backends of ``cluster``, as one node saw it. ``found_s`` and ``ended_s`` (None: not yet) are Unix time.

    ``nodes``: which of them are silent. ``detection_s``: from the last answer to the finding, the longest of all nodes; None
    where nobody was asked. ``switch_s``: the longest of all moves; None: there was none. ``moves``: the first of ``moved``.
    ``connections``: sockets that were open to those nodes' pods once the services had moved; None: not counted.
    ``waiting``: services that the cluster does not serve yet, where nodes say nothing of its return.
    ``last_connection_s``: Unix time at which the last TCP connection to those nodes' backends began; None: not known.
    ``unanswered``: how many of them nobody accepted since the nodes were silent; None: nobody looked.
    """

    cluster: str
    cause: Cause
    found_s: float
    nodes: tuple[str, ...] = ()
    detection_s: float | None = None
    switch_s: float | None = None
    moves: tuple[Move, ...] = ()
    moved: int = 0
    connections: int | None = None
    ended_s: float | None = None
    waiting: tuple[ServiceName, ...] = ()
    last_connection_s: float | None = None
    unanswered: int | None = None
