"""meshd.v1.NodeService and meshd.v1.ClusterService: what this agent knows of machines and clusters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog

from meshd.api.v1 import cluster_pb2, cluster_pb2_grpc, node_pb2, node_pb2_grpc, watch_pb2
from meshd.errors import OwnedByOther, UnknownObject
from meshd.model import Cluster, Node, NodeState
from meshd.model.cluster import OWN_NODE
from meshd.servers.control.callers import Context, current_caller
from meshd.servers.control.outcome import until_settled
from meshd.servers.control.pages import page
from meshd.servers.control.replies import Replies, timestamp
from meshd.servers.control.watch import Watch
from meshd.servers.introspection import Introspection
from meshd.state import Mesh, PlanKey
from meshd.state.mesh import precedence
from meshd.state.table import Change

log = structlog.get_logger(__name__)

NodeChange = Change[tuple[str, str, str], Node]
ClusterChange = Change[tuple[str, str], Cluster]


@dataclass(frozen=True, slots=True)
class Nodes(node_pb2_grpc.NodeServiceServicer):
    """``cluster`` is this agent's."""

    mesh: Mesh
    introspection: Introspection
    cluster: str

    async def GetNode(self, request: node_pb2.GetNodeRequest, context: Context) -> node_pb2.GetNodeResponse:
        cluster = request.cluster or self.cluster
        found = [
            node for node in self.mesh.nodes.values() if (node.cluster, node.name) == (cluster, request.name)
        ]
        if not found:
            raise UnknownObject(f"node {cluster}/{request.name}")
        node = min(found, key=lambda node: precedence(node.source))
        return node_pb2.GetNodeResponse(node=Replies(self.mesh, self.introspection).node(node))

    async def ListNodes(
        self, request: node_pb2.ListNodesRequest, context: Context
    ) -> node_pb2.ListNodesResponse:
        names = [
            (cluster, name, source)
            for (source, cluster, name), _ in self.mesh.nodes.items()
            if request.cluster in {"", cluster}
        ]
        shown, token = await page(names, request.page_size, request.page_token)
        replies = Replies(self.mesh, self.introspection)
        found = (self.mesh.nodes.get((source, cluster, name)) for cluster, name, source in shown)
        return node_pb2.ListNodesResponse(
            nodes=[replies.node(node) for node in found if node is not None],
            next_page_token=token,
            revision=self.mesh.revision,
        )

    async def DeleteNode(
        self, request: node_pb2.DeleteNodeRequest, context: Context
    ) -> node_pb2.DeleteNodeResponse:
        cluster = request.cluster or self.cluster
        named = [
            node for node in self.mesh.nodes.values() if (node.cluster, node.name) == (cluster, request.name)
        ]
        if not named:
            raise UnknownObject(f"node {cluster}/{request.name}")
        if any(node.source == OWN_NODE for node in named):
            raise OwnedByOther(f"node {cluster}/{request.name}", OWN_NODE)
        for node in named:
            if not node.is_of_etcd or node.state is not NodeState.STALE:
                raise OwnedByOther(f"node {node}", node.source)
        for node in named:
            revision = self.mesh.apply(node.source, deletes=[(Node, node.key)])
            caller = current_caller()
            role = caller.role.name.lower()
            log.info("node deleted", node=str(node), revision=revision, caller=caller.name, role=role)
        if request.wait or not request.HasField("wait"):
            key = PlanKey("node", f"{cluster}/{request.name}")
            await until_settled(self.mesh, context, revision, key, f"deletion of {key}")
        return node_pb2.DeleteNodeResponse(revision=revision)

    async def WatchNodes(
        self, request: node_pb2.WatchNodesRequest, context: Context
    ) -> AsyncIterator[node_pb2.WatchNodesResponse]:
        def events(changes: Sequence[NodeChange]) -> list[node_pb2.NodeEvent]:
            replies = Replies(self.mesh, self.introspection)
            return [node_event(replies, change) for change in changes]

        def respond(
            events: list[node_pb2.NodeEvent], revision: int, synced: bool
        ) -> node_pb2.WatchNodesResponse:
            return node_pb2.WatchNodesResponse(
                events=events, instance=self.mesh.instance, revision=revision, synced=synced
            )

        async for message in Watch(self.mesh, self.mesh.nodes, events, respond).stream(request.resume):
            yield message


@dataclass(frozen=True, slots=True)
class Clusters(cluster_pb2_grpc.ClusterServiceServicer):
    """This cluster and the remote ones."""

    mesh: Mesh
    introspection: Introspection

    async def GetCluster(
        self, request: cluster_pb2.GetClusterRequest, context: Context
    ) -> cluster_pb2.GetClusterResponse:
        found = [cluster for cluster in self.mesh.clusters.values() if cluster.name == request.name]
        if not found:
            raise UnknownObject(f"cluster {request.name}")
        cluster = min(found, key=lambda cluster: precedence(cluster.source))
        return cluster_pb2.GetClusterResponse(cluster=Replies(self.mesh, self.introspection).cluster(cluster))

    async def ListClusters(
        self, request: cluster_pb2.ListClustersRequest, context: Context
    ) -> cluster_pb2.ListClustersResponse:
        names = [(name, source) for (source, name), _ in self.mesh.clusters.items()]
        shown, token = await page(names, request.page_size, request.page_token)
        replies = Replies(self.mesh, self.introspection)
        found = (self.mesh.clusters.get((source, name)) for name, source in shown)
        return cluster_pb2.ListClustersResponse(
            clusters=[replies.cluster(cluster) for cluster in found if cluster is not None],
            next_page_token=token,
            revision=self.mesh.revision,
        )

    async def ConfirmRemovals(
        self, request: cluster_pb2.ConfirmRemovalsRequest, context: Context
    ) -> cluster_pb2.ConfirmRemovalsResponse:
        gone = self.introspection.confirm_removals(request.name)
        if gone is None:
            raise UnknownObject(f"peer {request.name}")
        caller = current_caller()
        log.info(
            "removals confirmed",
            cluster=request.name,
            services=len(gone),
            caller=caller.name,
            role=caller.role.name.lower(),
        )
        return cluster_pb2.ConfirmRemovalsResponse(
            removals=[
                cluster_pb2.ConfirmedRemoval(
                    namespace=one.service.namespace,
                    service=one.service.name,
                    backends=one.backends,
                    held=one.held,
                    since=timestamp(one.since_s),
                )
                for one in sorted(gone, key=lambda one: one.service)
            ],
            revision=self.mesh.revision,
        )

    async def RelearnPin(
        self, request: cluster_pb2.RelearnPinRequest, context: Context
    ) -> cluster_pb2.RelearnPinResponse:
        was_learned = self.introspection.relearn_pin(request.name)
        if was_learned is None:
            raise UnknownObject(f"peer {request.name}")
        caller = current_caller()
        log.info(
            "pin is learned anew",
            cluster=request.name,
            was_learned=was_learned,
            caller=caller.name,
            role=caller.role.name.lower(),
        )
        return cluster_pb2.RelearnPinResponse(was_learned=was_learned)

    async def WatchClusters(
        self, request: cluster_pb2.WatchClustersRequest, context: Context
    ) -> AsyncIterator[cluster_pb2.WatchClustersResponse]:
        def events(changes: Sequence[ClusterChange]) -> list[cluster_pb2.ClusterEvent]:
            replies = Replies(self.mesh, self.introspection)
            return [cluster_event(replies, change) for change in changes]

        def respond(
            events: list[cluster_pb2.ClusterEvent], revision: int, synced: bool
        ) -> cluster_pb2.WatchClustersResponse:
            return cluster_pb2.WatchClustersResponse(
                events=events, instance=self.mesh.instance, revision=revision, synced=synced
            )

        async for message in Watch(self.mesh, self.mesh.clusters, events, respond).stream(request.resume):
            yield message


def node_event(replies: Replies, change: NodeChange) -> node_pb2.NodeEvent:
    """What happened to a node; one that is gone has its name only."""
    if change.value is not None:
        return node_pb2.NodeEvent(type=watch_pb2.EVENT_TYPE_PUT, node=replies.node(change.value))
    source, cluster, name = change.key
    gone = node_pb2.Node(cluster=cluster, name=name, source=source)
    return node_pb2.NodeEvent(type=watch_pb2.EVENT_TYPE_DELETE, node=gone)


def cluster_event(replies: Replies, change: ClusterChange) -> cluster_pb2.ClusterEvent:
    """What happened to a cluster; one that is gone has its name only."""
    if change.value is not None:
        return cluster_pb2.ClusterEvent(type=watch_pb2.EVENT_TYPE_PUT, cluster=replies.cluster(change.value))
    source, name = change.key
    gone = cluster_pb2.Cluster(name=name, source=source)
    return cluster_pb2.ClusterEvent(type=watch_pb2.EVENT_TYPE_DELETE, cluster=gone)
