"""When a node counts as settled, from what its meshd says."""

from __future__ import annotations

from meshd.api.v1 import backend_pb2, cluster_pb2, node_pb2, status_pb2
from meshd.lab.readiness import Expected, lacking

WANTED = Expected(frozenset({"cm-2"}), frozenset({"10.1.1.10"}), frozenset({"cm-1-n2"}))


def _status(
    *,
    source: status_pb2.SourceState.ValueType = status_pb2.SOURCE_STATE_COMPLETE,
    peer: cluster_pb2.ClusterState.ValueType = cluster_pb2.CLUSTER_STATE_SYNCED,
    pending: int = 0,
) -> status_pb2.GetStatusResponse:
    return status_pb2.GetStatusResponse(
        sources=[status_pb2.Source(name="manifests", state=source)],
        clusters=[cluster_pb2.Cluster(name="cm-2", state=peer)],
        pending=pending,
    )


def _backends(*addresses: str, ready: bool = True) -> list[backend_pb2.Backend]:
    return [backend_pb2.Backend(address=address, ready=ready) for address in addresses]


def _nodes(routing: str = "native") -> list[node_pb2.Node]:
    """Of the other node: what its Node object says, which is no way yet, and what etcd does."""
    return [
        node_pb2.Node(name="cm-1-n2", source="manifests"),
        node_pb2.Node(name="cm-1-n2", source="etcd", routing=routing),
    ]


def test_a_node_is_settled_with_all_sources_read_and_just_the_right_backends_in_the_kernel() -> None:
    assert lacking(_status(), _backends("10.1.1.10"), _nodes(), WANTED) == ""


def test_what_a_node_lacks_is_said() -> None:
    here = _backends("10.1.1.10")
    listing, connecting = status_pb2.SOURCE_STATE_LISTING, cluster_pb2.CLUSTER_STATE_CONNECTING
    assert (
        lacking(_status(source=listing), here, _nodes(), WANTED) == "source manifests is not read completely"
    )
    assert lacking(_status(peer=connecting), here, _nodes(), WANTED) == "cluster cm-2 is not synced"
    assert lacking(_status(pending=2), here, _nodes(), WANTED) == "2 changes wait for the kernel"
    assert lacking(_status(), [], _nodes(), WANTED) == "backend 10.1.1.10 is not known"
    waiting, more = _backends("10.1.1.10", ready=False), _backends("10.1.1.10", "10.1.1.11")
    assert lacking(_status(), waiting, _nodes(), WANTED) == "backend 10.1.1.10 is not known"
    assert lacking(_status(), more, _nodes(), WANTED) == "backend 10.1.1.11 is still there"
    assert lacking(_status(), here, _nodes(""), WANTED) == "the pods of cm-1-n2 are not reached"
    silent = node_pb2.Node(name="cm-2-n1", routing="native", reachability=node_pb2.REACHABILITY_DOWN)
    assert lacking(_status(), here, [*_nodes(), silent], WANTED) == "cm-2-n1 does not answer"
