"""What a service does with backends of remote clusters that nobody has vouched for for too long. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.model import BackendSlice, OnStale, Service
from meshd.model.cluster import REMOTE_PREFIX
from meshd.state import Mesh


@dataclass(frozen=True, slots=True)
class Staleness:
    """``default`` is for services that say nothing."""

    default: OnStale = OnStale.KEEP

    def of(self, mesh: Mesh, service: Service, source: str, part: BackendSlice | None = None) -> OnStale:
        """What ``service`` does with what ``source`` said, in ``part`` or, where nobody knows, in the kernel."""
        overdue = mesh.is_overdue(source) or (part is not None and part.overdue)
        if not overdue or not source.startswith(REMOTE_PREFIX):
            return OnStale.KEEP
        return service.on_stale or self.default
