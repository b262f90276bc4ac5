"""How failover drills are begun and ended: calls that the agent answers (`meshd/agent/drill_view.py`)."""

from __future__ import annotations

from typing import Protocol

from meshd.model import ServiceName
from meshd.model.drill import DrillReport


class Drilling(Protocol):
    """Of all nodes of the cluster. ``patience_s``: for so long their words are waited for; None: for ever."""

    async def start(
        self, name: ServiceName, lose: str, for_s: float, patience_s: float | None
    ) -> DrillReport:
        """Begins a drill.

        Raises:
            UnknownObject, InvalidObject, DrillGoesOn, NoClusterStore: nothing was changed; ClusterNotTold: etcd did not
            take it.
        """

    async def stop(self, number: str, patience_s: float | None) -> DrillReport:
        """Ends it, if it is not over.

        Raises:
            NoClusterStore: there is none; ClusterNotTold: it ends in its time.
        """
