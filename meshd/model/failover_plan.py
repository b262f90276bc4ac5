"""What a loss would mean: who would take over which share of a service's traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from meshd.model.service import Frontend, ServiceName


class Loss(NamedTuple):
    """A cluster that cannot be reached, or of it one node, or one zone."""

    cluster: str
    node: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """A part of the traffic of a service, 0 to 1. ``capacity``: the stated one, as far as healthy; None: not stated."""

    share: float = 0.0
    backends: int = 0
    capacity: float | None = None

    @property
    def headroom(self) -> float | None:
        """What could come on top; below 0: it has more than was stated."""
        return None if self.capacity is None else self.capacity - self.share


@dataclass(frozen=True, slots=True)
class TakenBy:
    """One cluster's part, before the loss and after it."""

    cluster: str
    before: Taken
    after: Taken


@dataclass(frozen=True, slots=True)
class FailoverPlan:
    """Of the ``frontends`` of a service that fare alike. ``lost``: backends that the loss takes.

    ``nothing_left``: no backend that could serve would be within reach. (Then nothing is changed, and connections fail.)
    """

    service: ServiceName
    frontends: tuple[Frontend, ...]
    lost: int
    nothing_left: bool
    clusters: tuple[TakenBy, ...]
