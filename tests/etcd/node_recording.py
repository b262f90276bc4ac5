"""A sink of nodes that remembers what it was told."""

from __future__ import annotations

from collections.abc import Sequence

from clustermesh.address_record import AddressRecord
from clustermesh.node_record import Node
from tests.etcd.recording import RecordingSink


class RecordingNodes:
    """Notes every call in ``sink``, in the order in which it was told of nodes, addresses and services."""

    def __init__(self, sink: RecordingSink) -> None:
        self.nodes: dict[str, Node] = {}
        self.addresses: dict[str, AddressRecord] = {}
        self._sink = sink

    def replace_nodes(self, cluster: str, nodes: Sequence[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self._sink.note("nodes", cluster, *sorted(self.nodes))

    def put_node(self, cluster: str, node: Node) -> None:
        self.nodes[node.name] = node
        self._sink.note("node", cluster, node.name)

    def node_vanished(self, cluster: str, name: str, revision: int) -> None:
        self._sink.note("node vanished", cluster, name, str(revision))

    def replace_addresses(self, cluster: str, addresses: Sequence[AddressRecord]) -> None:
        self.addresses = {one.name: one for one in addresses}
        self._sink.note("addresses", cluster, *sorted(self.addresses))

    def put_address(self, cluster: str, address: AddressRecord) -> None:
        self.addresses[address.name] = address
        self._sink.note("address", cluster, address.name)

    def address_vanished(self, cluster: str, name: str, revision: int) -> None:
        self._sink.note("address vanished", cluster, name, str(revision))
