"""Which nodes there are, in every cluster: from records in etcd to nodes of the mesh, and who is not believed.

A record is its cluster's word for its own nodes only. One that claims what another node has, or this one, is refused as a
whole, named, and looked at again when that changes; an earlier version of it stays in force. Only what nodes of this node's
own cluster claim is theirs also if another cluster said so first. One that vanishes says only
that nobody renews it: the node goes stale, and what it said stands until another node of its cluster publishes one of its
addresses or CIDRs, or an operator deletes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace

import structlog

from clustermesh.address_record import AddressRecord
from clustermesh.node_record import Node as NodeRecord
from meshd.model import Address, Node, NodeState, format_address
from meshd.model.cluster import ETCD, OWN_NODE, REMOTE_PREFIX
from meshd.sources.claims import Claims, Network, unusable
from meshd.sources.node_addresses import NodeAddresses
from meshd.sources.node_claims import hosts, networks_of, node_of, ranges_of
from meshd.sources.own_addresses import OwnAddresses
from meshd.sources.own_records import own_node
from meshd.state import Mesh
from meshd.state.mesh import Object

log = structlog.get_logger(__name__)

# What a node of the mesh is named by: source, cluster, name.
Key = tuple[str, str, str]


class NodeRegistry:
    """A sink of `clustermesh.node_reader` for all clusters, ``cluster`` itself among them; ``name`` is this node.

    Nodes that the mesh holds at the start are in force: a journal told of them. ``ours``: what else of this cluster's no
    other may have; None: nothing.
    """

    def __init__(
        self,
        mesh: Mesh,
        cluster: str,
        name: str,
        max_connected_clusters: int = 255,
        ours: OwnAddresses | None = None,
    ) -> None:
        self._ours = ours
        self._judged = 0
        self._mesh = mesh
        self._most_clusters = max_connected_clusters
        self._cluster = cluster
        self._name = name
        self._own: Node | None = None
        # Somebody else's record under our name.
        self._namesake: Node | None = None
        self._own_key: Key = (OWN_NODE, cluster, name)
        self._claims: Claims[Key] = Claims()
        self._addresses: dict[str, NodeAddresses] = {}
        # Source and address -> node; entries of nodes that are gone lead nowhere.
        self._by_address: dict[tuple[str, Address], Key] = {}
        # Newest records that are refused, in the order in which they came.
        self._waiting: dict[Key, Node] = {}
        self.refusals: Counter[str] = Counter()
        """Cluster -> how often a record of it was refused since the start."""
        for node in mesh.nodes.values():
            if node.is_of_etcd and node.state is not NodeState.REFUSED:
                self._claims.set(node.key, [*networks_of(node), *hosts(node.extra)])
                self._by_address.update({(node.source, address): node.key for address in node.addresses})
        mesh.observe(self._observe)
        self._freed = False

    def problems(self) -> list[str]:
        """Every node that is not in force as it stands in etcd, or stands though it is not there any more, as a sentence."""
        nodes = [node for node in self._mesh.nodes.values() if node.is_of_etcd and node.reason]
        found = [f"node {node} is refused: {node.reason}" for node in nodes]
        stale = [node for node in self._mesh.nodes.values() if node.state is NodeState.STALE]
        found += [f"node {node} is stale: its record is gone, what it said stands" for node in stale]
        found += [] if self._namesake is None else [_about(self._namesake)]
        return found + [text for each in self._addresses.values() for text in each.refused.values()]

    # What the clustermesh package tells (its NodeSink)

    def replace_nodes(self, cluster: str, nodes: Sequence[NodeRecord]) -> None:
        """These are all records of nodes of ``cluster``."""
        self._take_own()
        source = self._source(cluster)
        named = {node.name for node in nodes}
        known = [node for node in self._mesh.nodes.values() if node.source == source]
        for node in known:
            if node.name not in named:
                self._vanished(node)
        # Those in force before those that come anew: who had it first keeps it.
        before = {node.name for node in known}
        for record in sorted(nodes, key=lambda node: (node.name not in before, node.name)):
            self._put(node_of(source, record, self._most_clusters))
        self.retry()

    def put_node(self, cluster: str, node: NodeRecord) -> None:
        """``node`` is new or changed."""
        self._take_own()
        self._put(node_of(self._source(cluster), node, self._most_clusters))
        self.retry()

    def node_vanished(self, cluster: str, name: str, revision: int) -> None:
        """Its lease ended, or somebody deleted its record: it is stale."""
        source = self._source(cluster)
        node = self._mesh.nodes.get((source, cluster, name))
        if node is not None:
            gone_with_it = self._of(source).gone_at(revision)
            self._vanished(replace(node, extra=self._outside(node, {*node.extra, *gone_with_it})))
        self.retry()

    def replace_addresses(self, cluster: str, addresses: Sequence[AddressRecord]) -> None:
        """These are all addresses of ``cluster``."""
        source = self._source(cluster)
        self._of(source).replace(addresses)
        self._refresh([node for node in self._mesh.nodes.values() if node.source == source])

    def put_address(self, cluster: str, address: AddressRecord) -> None:
        """``address`` is new or changed."""
        source = self._source(cluster)
        touched = self._of(source).put(address)
        self._refresh(self._nodes_at(source, touched))

    def address_vanished(self, cluster: str, name: str, revision: int) -> None:
        """Its pod is gone; or its node is, which is told by the same revision."""
        source = self._source(cluster)
        touched = self._of(source).vanished(name, revision)
        self._refresh(self._nodes_at(source, touched))

    # Inside

    def retry(self) -> None:
        """Look again at what was refused, if somebody else has less than before. Cheap; to be called now and then."""
        self._take_own()
        self._refuse_what_is_ours()
        while self._freed:
            self._freed = False
            for node in list(self._waiting.values()):
                self._put(node)

    def _put(self, node: Node) -> None:
        """Puts ``node`` in force, or notes why not."""
        if node.key[1:] == self._own_key[1:]:
            self._meet_namesake(node)
            return
        before = self._mesh.nodes.get(node.key)
        reason = self._refusal(node)
        if not reason:
            self._give_up_stale(node)
            self._displace(node.key, networks_of(node), f"node {node}")
            self._waiting.pop(node.key, None)
            node = replace(node, extra=self._extra(node, before))
            self._enforce(node)
            return
        if self._waiting.get(node.key) != node:
            self.refusals[node.cluster] += 1
            log.warning("node refused", node=str(node), source=node.source, reason=reason)
        self._waiting[node.key] = node
        if before is not None and before.state is not NodeState.REFUSED:
            self._apply(replace(before, state=NodeState.FRESH, reason=reason))
        else:
            self._apply(replace(node, state=NodeState.REFUSED, reason=reason))

    def _meet_namesake(self, node: Node) -> None:
        """``node`` is called what this one is: our own record, unless it is somewhere else."""
        ours = set(self._own.addresses) if self._own is not None else set()
        is_other = bool(ours and node.addresses) and ours.isdisjoint(node.addresses)
        if is_other and self._namesake != node:
            log.error("another node has our name", node=str(node), **_place(node))
        self._namesake = node if is_other else None

    def _enforce(self, node: Node) -> None:
        had = set(self._claims.of(node.key))
        has = [*networks_of(node), *hosts(node.extra)]
        self._claims.set(node.key, has)
        self._by_address.update({(node.source, address): node.key for address in node.addresses})
        self._freed = self._freed or not had <= set(has)
        self._apply(node)

    def _refusal(self, node: Node) -> str:
        """Why ``node`` cannot be in force, as a phrase; empty: it can."""
        for network in networks_of(node):
            if reason := unusable(network):
                return f"{network}: {reason}"
            if reason := self._is_ours(node, network):
                return f"{network} {reason}"
        for network, owner in self._claims.conflicts(node.key, networks_of(node)):
            if self._stale_holder(node, owner) is not None or self._yields(node, owner):
                continue
            whose = "this node" if owner == self._own_key else f"node {owner[1]}/{owner[2]}"
            return f"{network} belongs to {whose}"
        return ""

    def _stale_holder(self, node: Node, owner: Key) -> Node | None:
        """The stale node of the same cluster that ``owner`` is; what it has goes to a node that publishes it now."""
        holder = self._mesh.nodes.get(owner)
        gives_way = holder is not None and holder.source == node.source and holder.state is NodeState.STALE
        return holder if gives_way else None

    def _yields(self, node: Node, owner: Key) -> bool:
        """Whether ``owner`` is of another cluster and ``node`` of ours: else others could claim beforehand what a node of
        ours is going to get."""
        return node.source == ETCD and owner[0].startswith(REMOTE_PREFIX)

    def _give_up_stale(self, node: Node) -> None:
        for network, owner in list(self._claims.conflicts(node.key, networks_of(node))):
            holder = self._stale_holder(node, owner)
            if holder is not None:
                log.info("stale node replaced", node=str(holder), by=str(node), network=str(network))
                self._mesh.apply(holder.source, deletes=[(Node, holder.key)])

    def _vanished(self, node: Node) -> None:
        self._waiting.pop(node.key, None)
        if node.state is NodeState.REFUSED:
            self._mesh.apply(node.source, deletes=[(Node, node.key)])
        else:
            self._enforce(replace(node, state=NodeState.STALE, reason=""))

    def _refresh(self, nodes: Iterable[Node]) -> None:
        """Addresses of ``nodes`` changed. Those of a stale one stand, as it does."""
        fresh = [node for node in nodes if node.state is NodeState.FRESH]
        # Who lost an address gives it up before another takes it.
        for number, node in enumerate(fresh):
            there = self._of(node.source).at(node.addresses) if node.extra else set()
            fresh[number] = self._with_extra(node, tuple(each for each in node.extra if each in there))
        for node in fresh:
            self._with_extra(node, self._extra(node, node))

    def _with_extra(self, node: Node, extra: tuple[Address, ...]) -> Node:
        if extra == node.extra:
            return node
        changed = replace(node, extra=extra)
        self._enforce(changed)
        return changed

    def _extra(self, node: Node, before: Node | None) -> tuple[Address, ...]:
        """Addresses of the pods of ``node`` that are in none of its CIDRs, and that nobody else has."""
        known = self._of(node.source)
        if not known.is_listed:
            return self._outside(node, before.extra if before is not None else ())
        return self._outside(node, known.at(node.addresses))

    def _outside(self, node: Node, addresses: Collection[Address]) -> tuple[Address, ...]:
        own = ranges_of(node)
        known = self._of(node.source)
        again = {each for each in addresses if known.refused.pop(each, None)} if known.refused else set()
        found = []
        outside = (
            address for address in addresses if not any(first <= address <= last for first, last in own)
        )
        for address in sorted(outside):
            (network,) = hosts([address])
            other = next(self._claims.conflicts(node.key, [network]), None)
            if other is None and not unusable(network) and not self._is_ours(node, network):
                found.append(address)
                continue
            if address not in again:
                self.refusals[node.cluster] += 1
            whose = f"node {other.owner[1]}/{other.owner[2]}" if other is not None else "nobody"
            known.refused[address] = f"address {network.network_address} of node {node} belongs to {whose}"
        return tuple(found)

    def _is_ours(self, node: Node, network: Network) -> str:
        """Why ``node`` cannot have ``network``, though no node has it; empty: it can."""
        return "" if self._ours is None or node.source == ETCD else self._ours.reason_within(network)

    def _refuse_what_is_ours(self) -> None:
        """Of nodes that are in force: what was nobody's when they came may be ours by now."""
        if self._ours is None or self._judged == self._ours.generation:
            return
        self._judged = self._ours.generation
        self._freed = True
        for node in list(self._mesh.nodes.values()):
            if not node.is_of_etcd or node.state is NodeState.REFUSED:
                continue
            reasons = ((each, self._is_ours(node, each)) for each in networks_of(node))
            network, reason = next((each for each in reasons if each[1]), (None, ""))
            if reason:
                self._refuse(node, f"{network} {reason}")

    def _refuse(self, holder: Node, reason: str) -> None:
        """``holder``, which was in force, has nothing any more, and waits."""
        self._claims.remove(holder.key)
        self.refusals[holder.cluster] += 1
        log.warning("node refused", node=str(holder), source=holder.source, reason=reason)
        if holder.state is NodeState.STALE:
            # There is no record that could come into force again.
            self._mesh.apply(holder.source, deletes=[(Node, holder.key)])
            return
        self._waiting.setdefault(holder.key, replace(holder, state=NodeState.FRESH, reason=""))
        self._apply(replace(holder, state=NodeState.REFUSED, reason=reason))

    def _take_own(self) -> None:
        """What this node has is nobody else's, whoever came first."""
        own = own_node(self._mesh, self._cluster, self._name)
        if own == self._own:
            return
        self._own = own
        self._displace(self._own_key, networks_of(own), "this node")
        self._claims.set(self._own_key, networks_of(own))
        self._freed = True

    def _displace(self, key: Key, networks: Iterable[Network], whose: str) -> None:
        """Whoever has something of ``networks`` waits until ``key``, which takes them, has them no more."""
        for network, owner in list(self._claims.conflicts(key, networks)):
            # The first of its conflicts took all that it had.
            if not self._claims.remove(owner):
                continue
            self._freed = True
            holder = self._mesh.nodes.get(owner)
            if holder is None:
                continue
            if holder.state is NodeState.STALE:
                # There is no record that could come into force again.
                self._mesh.apply(holder.source, deletes=[(Node, holder.key)])
                continue
            self._waiting.setdefault(holder.key, replace(holder, state=NodeState.FRESH, reason=""))
            self._apply(replace(holder, state=NodeState.REFUSED, reason=f"{network} belongs to {whose}"))

    def _observe(self, _: str, __: list[Object], deletes: list[tuple[type, Hashable]]) -> None:
        """Whoever took a node away: what it had is free."""
        for kind, key in deletes:
            if kind is Node and self._claims.remove(key):  # type: ignore[arg-type] # of a Node
                self._freed = True

    def _source(self, cluster: str) -> str:
        return ETCD if cluster == self._cluster else REMOTE_PREFIX + cluster

    def _of(self, source: str) -> NodeAddresses:
        return self._addresses.setdefault(source, NodeAddresses())

    def _nodes_at(self, source: str, hosts: Iterable[Address]) -> list[Node]:
        keys = {self._by_address.get((source, host)) for host in hosts}
        found = (self._mesh.nodes.get(key) for key in keys if key is not None)
        return [node for node in found if node is not None]

    def _apply(self, node: Node) -> None:
        self._mesh.apply(node.source, [node])


def _about(namesake: Node) -> str:
    return (
        f"another node calls itself {namesake}, at {_place(namesake)['address']}: each writes over the other's record, "
        "so others reach only one of them; give them different names (nodeName)"
    )


def _place(node: Node) -> dict[str, str]:
    return {"address": ", ".join(map(format_address, node.addresses))}
