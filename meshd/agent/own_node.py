"""This node as its agent finds it, for the mesh and for the other nodes: addresses, pod CIDRs, and how it is reached."""

from __future__ import annotations

from meshd.config import Config
from meshd.dataplane.devices import Devices
from meshd.model import Node, parse_address
from meshd.model.address_pool import health_addresses
from meshd.model.cluster import OWN_NODE
from meshd.state import Mesh


class OwnNode:
    """Source `node`: one object, which follows the node's devices."""

    def __init__(self, config: Config, mesh: Mesh, devices: Devices) -> None:
        self._config = config
        self._mesh = mesh
        self._devices = devices
        mesh.listing(OWN_NODE)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            moved = self._mesh.moved_event()
            node = self._node()
            if node is not None and self._mesh.nodes.get(node.key) != node:
                self._mesh.replace(OWN_NODE, [node])
            await moved.wait()

    def _node(self) -> Node | None:
        """None: nothing is known of the devices yet, and what an earlier run said of them is in etcd still."""
        config, found = self._config, self._devices.now
        if not found.looked:
            return None
        named = [parse_address(text) for text in config.node_addresses]
        looked = [address for address in (found.node_v4, found.node_v6) if address is not None]
        return Node(
            config.cluster_name,
            config.node_name,
            OWN_NODE,
            tuple(dict.fromkeys([*named, *looked])),
            config.cni.pod_cidrs,
            config.zone,
            routing=config.pod_network.routing,
            health=health_addresses(config.cni.pod_cidrs),
            takes_identities=True,
            region=config.region,
        )
