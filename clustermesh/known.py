"""What is known of a peer across connections, changes of its configuration, and restarts of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clustermesh.endpoint_slice import EndpointSlice
from clustermesh.node_reader import NodeCopies
from clustermesh.pin import Forbids, Pin, nothing
from clustermesh.records import ClusterService
from clustermesh.reflector import Copy
from clustermesh.removals import Removals
from clustermesh.sink import KeptService
from clustermesh.slice_merge import SliceCopies


def backends_of(service: ClusterService) -> int:
    """How many backends go with ``service``."""
    return len(service.backends)


@dataclass(slots=True)
class Known:
    """``services``, or ``slices`` that make them, and ``nodes`` as the peer says them; ``removals``: which services are in
    force. ``is_listed``: a complete list was read since the start.
    """

    services: Copy[ClusterService] = field(default_factory=Copy)
    slices: SliceCopies = field(default_factory=SliceCopies)
    removals: Removals[ClusterService] = field(default_factory=lambda: Removals(backends_of))
    nodes: NodeCopies = field(default_factory=NodeCopies)
    is_listed: bool = False

    @property
    def refused(self) -> dict[str, str]:
        """Name -> why, of records that cannot be used now."""
        return {**self.services.refused, **self.slices.refused, **self.nodes.refused}

    @property
    def refusals(self) -> Counter[str]:
        """Field at fault -> how often, ever."""
        return self.services.refusals + self.slices.refusals + self.nodes.refusals

    def forget(self, pin: Pin, forbids: Forbids = nothing) -> bool:
        """Without what ``pin`` does not allow, and without services with backends that ``forbids`` names; whether there
        was anything."""

        def is_bad(record: Any) -> bool:  # Any: of each kind
            backends = record.backends if isinstance(record, ClusterService | EndpointSlice) else ()
            return not pin.allows(record) or any(map(forbids, backends))

        copies: tuple[Copy[Any], ...] = (
            self.services,
            self.slices.slices,
            self.nodes.nodes,
            self.nodes.addresses,
        )  # Any: of each kind
        found = False
        for copy in copies:
            allowed = {name: record for name, record in copy.records.items() if not is_bad(record)}
            found = found or len(allowed) < len(copy.records)
            copy.records = allowed
        found = any(map(is_bad, self.removals.in_force.values())) or found
        self.removals.forget(is_bad)
        self.nodes.address_removals.forget(is_bad)
        return found


def restored(services: Mapping[str, ClusterService], kept: Mapping[str, KeptService], now_s: float) -> Known:
    """What an earlier process held of the services of a peer: ``services`` as it said them, ``kept`` besides."""
    known = Known(Copy(dict(services)))
    known.removals.restore(services, kept, now_s)
    return known
