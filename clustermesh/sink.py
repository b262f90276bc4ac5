"""Who is told what peers share, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from clustermesh.records import ClusterService
from clustermesh.removals import Kept

KeptService: TypeAlias = Kept[ClusterService]


class Sink(Protocol):
    """Who is told what peers share. Called on the event loop; must not block."""

    def peers(self, clusters: frozenset[str]) -> None:
        """The completely read configuration names these clusters and no others."""

    def replace(self, cluster: str, services: Sequence[ClusterService], kept: Sequence[KeptService]) -> None:
        """This is all that ``cluster`` shares, and what of it stands besides; whatever else is known is to be deleted."""

    def put(self, cluster: str, service: ClusterService) -> None:
        """``service`` of ``cluster`` is new or changed."""

    def keep(self, cluster: str, kept: Sequence[KeptService]) -> None:
        """``cluster`` does not name these any more, and they stand; of some it may have been told that they went."""

    def delete(self, cluster: str, name: str) -> None:
        """``cluster`` does not share ``name`` (namespace/name) any more."""

    def synced(self, cluster: str) -> None:
        """What was told of ``cluster`` is all there is, and changes arrive."""

    def stale(self, cluster: str, reason: str) -> None:
        """Changes of ``cluster`` may be missing; nothing is to be deleted for that."""

    def gone(self, cluster: str) -> None:
        """``cluster`` was removed from the configuration: it shares nothing any more."""
