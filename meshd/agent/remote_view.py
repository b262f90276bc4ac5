"""What the servers show of remote clusters, and what of them is let go by an operator, in the servers' own values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from clustermesh.known import backends_of
from clustermesh.mesh import MeshStatus
from clustermesh.remote import RemoteStatus
from meshd.model import ServiceName
from meshd.servers.introspection import Peer, Removal
from meshd.sources.remote import RemoteClusters


def peers(status: MeshStatus) -> Sequence[Peer]:
    """The connections to remote clusters."""
    return [_peer(each) for each in status.peers]


def confirm_removals(remotes: RemoteClusters, cluster: str) -> Sequence[Removal] | None:
    """All that stood although ``cluster`` does not name it is gone now; None: there is no such peer."""
    gone = remotes.confirm(cluster)
    if gone is None:
        return None
    return [
        Removal(
            ServiceName(each.record.namespace, each.record.name),
            backends_of(each.record),
            each.held,
            each.since_s,
        )
        for each in gone
    ]


def removal_problems(status: MeshStatus) -> Iterator[str]:
    """What stands although a remote cluster does not name it, a sentence for each cluster and reason."""
    for each in status.peers:
        peer = _peer(each)
        if peer.held_since_s is not None:
            since = datetime.fromtimestamp(peer.held_since_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            yield (
                f"cluster {peer.cluster}: {peer.held_services} services with {peer.held_backends} backends are held since "
                f"{since}: its etcd lost most of what it had while its nodes answer; they stand until they are put again, "
                f"clustermesh.holdS has passed, or `meshctl clustermesh confirm {peer.cluster}`"
            )
        if others := len(each.kept) - peer.held_services:
            yield (
                f"cluster {peer.cluster}: {others} services stand although its etcd does not name them: when they vanished "
                f"nothing said that who writes there lives; `meshctl clustermesh confirm {peer.cluster}` lets them go"
            )


def _peer(status: RemoteStatus) -> Peer:
    held = [each for each in status.kept.values() if each.held]
    return Peer(
        status.cluster,
        services=status.services,
        lag_s=status.lag_s,
        heartbeat_age_s=status.heartbeat_age_s,
        refused=status.refusals,
        reconnects=status.failures,
        last_error=status.last_failure,
        stale_services=len(status.kept) if status.state == "synced" else status.services,
        held_services=len(held),
        held_backends=sum(backends_of(each.record) for each in held),
        held_since_s=min((each.since_s for each in held), default=None),
        pin_origin=status.pin_origin,
        pin_cluster_id=status.pin.cluster_id,
        pin_networks=tuple(str(network) for network in status.pin.networks),
    )
