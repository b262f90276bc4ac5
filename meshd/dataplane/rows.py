"""What plans are made of: rows of maps as packed bytes, and what else a feature wants done once they are written."""

from __future__ import annotations

from dataclasses import dataclass, field

# map name -> packed key -> packed value
Rows = dict[str, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ServedFrontend:
    """Who may keep talking through a frontend: packed endpoints of backends that are ready or still serve while they end.

    ``close_tcp``: established TCP connections to others are closed as well, not only connected UDP sockets.
    """

    service: str
    backends: tuple[bytes, ...]
    close_tcp: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``served``: packed frontend -> who serves it; absent for features that translate nothing."""

    rows: Rows
    served: dict[bytes, ServedFrontend] = field(default_factory=dict)
