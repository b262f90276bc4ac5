"""Keeps this node's ways to other nodes: which are near, the host's routes to their pods, and the tunnel device.

What somebody else deletes is put back at the next audit; what other nodes say is followed at once.
"""

from __future__ import annotations

import asyncio

import structlog

from meshd.config import Config
from meshd.dataplane.devices import Devices, Found
from meshd.dataplane.pod_network import health_address, routes, tunnel
from meshd.dataplane.pod_network.destination_plans import OWN
from meshd.dataplane.pod_network.other_nodes import node_of, other_nodes, sources_of_nodes
from meshd.dataplane.reach import Here, Reached, Via
from meshd.errors import KernelError
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_vxlan import VxlanDevice
from meshd.model import Node
from meshd.model.address_pool import health_addresses
from meshd.state import Compacted, Mesh, PlanKey

log = structlog.get_logger(__name__)


class NodeNetwork:
    """`run` in the node's namespace, beside the part that looks at its devices."""

    def __init__(self, config: Config, mesh: Mesh, devices: Devices) -> None:
        self._config = config
        self._mesh = mesh
        self._devices = devices
        self._revision = -1
        self._looked: Found | None = None
        self._audited = False
        self._refused: dict[str, str] = {}
        self._trouble = ""
        self._has_tunnel = False
        self._complete = False
        # Destinations of this run that may be there.
        self._had: set[routes.Network] = set()
        self.changed_routes = 0
        """How many routes were added, replaced or deleted since the start."""

    async def run(self) -> None:
        """Until cancelled; routes and device stay."""
        route = RouteSocket()
        try:
            while True:
                if self._take_changes() or not self._audited:
                    await self._put_right(route)
                self._audited = True
                moved = self._mesh.moved_event()
                if self._is_behind():
                    continue
                try:
                    async with asyncio.timeout(self._config.audit_interval_s):
                        await self._until_behind(moved)
                except TimeoutError:
                    self._audited = False
        finally:
            route.close()
            self._devices.ways.close()

    def headroom(self) -> int:
        """Bytes that pods' packets leave free, because they go through a tunnel or may have to."""
        is_needed = may_tunnel(self._config) or self._has_tunnel
        return tunnel.overhead(self._devices.now) if is_needed else 0

    def reached(self, node: Node) -> Reached | None:
        """How the pods of ``node`` are reached; None: it is not known (yet)."""
        found = node_of(self._mesh, self._config, str(node))
        return self._devices.ways.reached(found) if found is not None and found.key == node.key else None

    def problems(self) -> list[str]:
        """What keeps pods of other nodes from being reached, as sentences."""
        found = [f"route to {destination}: {reason}" for destination, reason in self._refused.items()]
        for node in self._nodes():
            reached = self._devices.ways.reached(node)
            if reached is not None and reached.reason and reached.reason != node.reason:
                found.append(f"pods of node {node} are not reached: {reached.reason}")
        return [*found, self._trouble] if self._trouble else found

    async def _until_behind(self, moved: asyncio.Event) -> None:
        while not self._is_behind():
            await moved.wait()
            moved = self._mesh.moved_event()

    def _is_behind(self) -> bool:
        if self._devices.now is not self._looked or self._is_complete() is not self._complete:
            return True
        try:
            return bool(self._mesh.nodes.changes(self._revision))
        except Compacted:
            return True

    def _take_changes(self) -> bool:
        """Whether anything is another than at the last call; plans that depend on it are made again."""
        behind = self._is_behind()
        self._revision, found = self._mesh.revision, self._devices.now
        if found.looked and found is not self._looked:
            here = Here(self._config.pod_network.routing, found.node_v4, found.node_v6)
            self._devices.ways.here = here
            self._touch_all()
        self._looked, self._complete = found, self._is_complete()
        return behind

    def _is_complete(self) -> bool:
        """Whether every source of nodes has spoken since the start: who is not named then is gone."""
        return all(self._mesh.is_complete(name) for name in sources_of_nodes(self._mesh, self._config))

    def _touch_all(self) -> None:
        self._mesh.touch(OWN)
        for node in self._nodes():
            self._mesh.touch(PlanKey("node", str(node)))

    def _nodes(self) -> list[Node]:
        return other_nodes(self._mesh, self._config)

    async def _put_right(self, route: RouteSocket) -> None:
        ways, found = self._devices.ways, self._devices.now
        if not found.looked:
            return
        try:
            ways.forget({address for node in self._nodes() for address in node.addresses})
            if changed := await asyncio.to_thread(ways.look_again):
                for node in self._nodes():
                    if not changed.isdisjoint(node.addresses):
                        self._mesh.touch(PlanKey("node", str(node)))
            reached = [(node, how) for node in self._nodes() if (how := ways.reached(node)) is not None]
            self._has_tunnel = any(how.via is Via.TUNNEL for _, how in reached)
            device = self._device(found)
            index = await asyncio.to_thread(tunnel.ensure, route, device) if device is not None else 0
            wanted = routes.wanted(
                reached, self._config.cni.pod_cidrs, found, index, device.mtu if device is not None else 0
            )
            self._had |= set(wanted)
            await asyncio.to_thread(
                health_address.ensure, route, health_addresses(self._config.cni.pod_cidrs)
            )
            outcome = await asyncio.to_thread(
                routes.apply, route, wanted, complete=self._complete, had=frozenset(self._had)
            )
            self._had = set(wanted)
        except KernelError as error:
            if self._trouble != str(error):
                log.error("ways to other nodes cannot be kept", reason=str(error))
            self._trouble = f"ways to other nodes cannot be kept: {error}"
            return
        self._trouble, self._refused = "", outcome.refused
        self.changed_routes += outcome.changed
        if outcome.changed:
            log.info("routes to pods of other nodes", changed=outcome.changed, routes=len(wanted))

    def _device(self, found: Found) -> VxlanDevice | None:
        """The tunnel device, where there is a tunnel, or may be one soon: pods' MTU leaves room for it already."""
        needed = may_tunnel(self._config) or self._has_tunnel
        return tunnel.wanted(found, self._config.pod_network.tunnel_port) if needed else None


def may_tunnel(config: Config) -> bool:
    """Whether packets of pods may have to go through a tunnel, so that they must be small enough for it."""
    mesh = config.clustermesh
    knows_others = mesh.etcd is not None or mesh.peers is not None
    return config.has_pod_network and config.pod_network.routing != "native" and knows_others
