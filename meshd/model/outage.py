"""A node that does not answer this node's probes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PROBES = "probes"
"""The source of outages."""


class Reachability(Enum):
    """Whether pods of a node can be reached from here. UNKNOWN: it never answered, so its silence means nothing."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Outage:
    """Of node ``node`` of ``cluster``, while it is down. ``since_s``: Unix time. ``reason``: how that is known.

    ``silent_s``: how long it had not answered by then; 0: not known. ``confirmed``: it was silent for as long again, and
    no connection to it was answered. ``contradicted``: one was.
    """

    cluster: str
    node: str
    since_s: float
    reason: str
    source: str = PROBES
    silent_s: float = 0.0
    confirmed: bool = False
    contradicted: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.cluster, self.node

    def __str__(self) -> str:
        return f"{self.cluster}/{self.node}"
