"""Which other nodes there are: as each says of itself in etcd, and where no etcd is, as Kubernetes says of it.

Kubernetes knows addresses and pod CIDRs of a node, but not how its pods may be reached. Every node of a cluster has the same
configuration (deploy/kubernetes), so the other ends answer that as this one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meshd.config import Config
from meshd.model import Node
from meshd.model.cluster import ETCD, KUBERNETES, REMOTE_PREFIX
from meshd.state import Mesh

# What its workloads may say in a tunnel that they are: nobody else's range has to be kept from them.
ANY_IDENTITY = (0, 0xFFFFFF)


def node_of(mesh: Mesh, config: Config, name: str) -> Node | None:
    """The node ``cluster/name``; None: there is none, or it is this one."""
    cluster, _, node = name.partition("/")
    source = ETCD if cluster == config.cluster_name else REMOTE_PREFIX + cluster
    found = mesh.nodes.get((source, cluster, node))
    if found is not None or not knows_from_kubernetes(config):
        return found
    if cluster != config.cluster_name or node == config.node_name:
        return None
    found = mesh.nodes.get((KUBERNETES, cluster, node))
    if found is None:
        return None
    return replace(found, routing=config.pod_network.routing, identities=ANY_IDENTITY)


def other_nodes(mesh: Mesh, config: Config) -> list[Node]:
    """All of them, each once."""
    names = sorted(
        {str(node) for node in mesh.nodes.values() if node.is_of_etcd or node.source == KUBERNETES}
    )
    return [found for name in names if (found := node_of(mesh, config, name)) is not None]


def sources_of_nodes(mesh: Mesh, config: Config) -> Sequence[str]:
    """Those of the mesh's sources that name them."""
    kubernetes = (KUBERNETES,) if knows_from_kubernetes(config) else ()
    return [name for name in mesh.sources if name in (ETCD, *kubernetes) or name.startswith(REMOTE_PREFIX)]


def knows_from_kubernetes(config: Config) -> bool:
    """Whether nodes of this cluster are those that the API server names."""
    return config.kubernetes.makes_network and config.clustermesh.etcd is None
