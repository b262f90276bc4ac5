"""Drills of a cluster that is not there: answers what it was told to, and remembers what it was asked."""

from __future__ import annotations

from meshd.errors import MeshError
from meshd.model import ServiceName
from meshd.model.drill import DrillReport


class FakeDrills:
    """``refusal``: why none can be begun."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.begun = self.over = DrillReport("", 0.0)
        self.refusal: MeshError | None = None

    async def start(
        self, name: ServiceName, lose: str, for_s: float, patience_s: float | None
    ) -> DrillReport:
        """As told."""
        self.asked.append(("start", str(name), lose, for_s))
        if self.refusal is not None:
            raise self.refusal
        return self.begun

    async def stop(self, number: str, patience_s: float | None) -> DrillReport:
        """As told."""
        self.asked.append(("stop", number))
        return self.over
